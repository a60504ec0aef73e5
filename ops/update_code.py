"""An update rule as one loop of machine code: w, the gradient and the slots are read once and written once. The bits are those of
the rule's ops, done one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from rainshed.ops.blas import Array
from rainshed.ops.broadcast import broadcast_to
from rainshed.ops.code_cache import Code, can_compile
from rainshed.ops.ir import Graph, Node
from rainshed.ops.loops import cuts_floats, is_exact, is_loop_cached, loop_code, value_text
from rainshed.ops.op import constant_op
from rainshed.ops.scalar import Line, number_text
from rainshed.ops.source import input_op
from rainshed.ops.types import DType

UPDATE: Final = "update"
TYPES: Final = ("f32", "f64", "i32", "i64")
Update = Callable[[Mapping[str, Array]], None]


@dataclass(frozen=True, slots=True)
class UpdateCode:
    """A rule's loop.

    source   its text
    names    the arrays that it takes, in this order: w, the slots, dw
    scalars  the values without axes that it reads, which whoever calls it has computed
    """

    source: str
    names: tuple[str, ...]
    scalars: tuple[Node, ...]

    def is_cached(self) -> bool:
        """Whether `bind` need not compile."""
        return is_loop_cached(UPDATE, self.source)

    def bind(self, values: Mapping[Node, Array]) -> Update:
        """The loop with the arrays of its scalars, which it reads anew at each call.

        Gives  a function that moves the arrays of a part by name in place: all [n], contiguous, sharing no memory
        """
        return partial(_run, loop_code(UPDATE, self.source), self.names, tuple(values[node] for node in self.scalars))


def _run(code: Code, names: Sequence[str], scalars: Sequence[Array], given: Mapping[str, Array]) -> None:
    arrays = [*(given[name] for name in names), *scalars]
    numbers = np.array([arrays[0].size, *map(_address, arrays)], np.int64)
    code(_address(numbers))


def update_code(graph: Graph) -> UpdateCode | None:
    """The loop of a rule's graph (see `ops/update.py`), which is not compiled yet; None where no machine code has its bits."""
    rows = [node for node in graph.nodes() if node.shape]
    read = {node.name: node for node in rows if node.op is input_op}
    scalars = tuple(dict.fromkeys(x for n in rows for x in n.inputs if not x.shape and x.op is not constant_op))
    given = (*read.values(), *scalars)
    number = {node: i for i, node in enumerate(given)}
    lines: list[Line] = []
    for node in rows:
        for value in (x for x in node.inputs if x not in number):
            number[value] = len(given) + len(lines)
            lines.append(Line(number_text(value.attrs["value"], value.dtype), (), value.dtype))
        if node.op is broadcast_to:  # a value of a loop is one element
            number[node] = number[node.inputs[0]]
        elif node.op is not input_op:
            if node.op.formula is None:
                return None
            number[node] = len(given) + len(lines)
            lines.append(Line(node.op.formula, tuple(number[x] for x in node.inputs), node.dtype))
    dtypes = [node.dtype for node in given]
    if not can_compile() or any(t.short not in TYPES for t in dtypes) or cuts_floats(tuple(lines), dtypes):
        return None
    if not all(map(is_exact, lines)):
        return None
    names = (*graph.outputs, "dw")
    results = [number[node] for node in graph.outputs.values()]
    source = _source(names, graph.outputs["w"].dtype, tuple(read), [n.dtype for n in scalars], lines, results)
    return UpdateCode(source, names, scalars)


def _source(
    names: Sequence[str],
    dtype: DType,
    read: Sequence[str],
    scalars: Sequence[DType],
    lines: Sequence[Line],
    results: Sequence[int],
) -> str:
    """Arguments: how many elements, the arrays `names`, the scalars. It computes the `lines`, and keeps the `results` of them."""
    text = ["def kernel(a):"]
    text += [f"    p{i} = {dtype.short}_at(a[{1 + i}])" for i in range(len(names))]
    text += [f"    v{len(read) + i} = {t.short}_at(a[{1 + len(names) + i}])[0]" for i, t in enumerate(scalars)]
    text += ["    for j in range(a[0]):"]
    text += [f"        v{i} = p{names.index(name)}[j]" for i, name in enumerate(read)]
    dtypes = [*(dtype for _ in read), *scalars]
    for line in lines:
        text.append(f"        v{len(dtypes)} = {value_text(line, dtypes)}")
        dtypes.append(line.dtype)
    text += [f"        p{i}[j] = v{result}" for i, result in enumerate(results)]
    return "\n".join([*text, "    return 0", ""])


def _address(x: Array) -> int:
    address: int = x.__array_interface__["data"][0]
    return address
