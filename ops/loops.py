"""Element-wise loops as machine code: which formulas have the bits of their NumPy kernels there, and the source of a loop over
arrays that may lie in steps. What is compiled comes from the cache on disk, or is made by Numba, which is loaded then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

from rainshed.ops.code_cache import Code, digest_of, is_cached, kernel_code
from rainshed.ops.elementwise import ELEMENTWISE, where
from rainshed.ops.scalar import Line, expression, made
from rainshed.ops.types import DType, float32

MODULE: Final = "rainshed.ops.machine_code"
SOURCES: Final = (
    MODULE,
    *(f"rainshed.ops.{name}" for name in ("lowering", "exponential", "blas")),
)  # what kernels are built from
EXACT: Final = frozenset(
    {
        "add", "subtract", "multiply", "divide", "negative", "abs", "square", "sqrt", "reciprocal", "maximum", "minimum",
        "equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or", "logical_not",
        "relu", "step_positive",
    }
)  # fmt: skip
FORMULAS: Final = frozenset(op.formula for name, op in ELEMENTWISE.items() if name in EXACT) | {where.formula, "x0"}
# Formulas for which there are functions of float32 with the same bits everywhere (ops/exponential.py).
OWN: Final[Mapping[str | None, str]] = MappingProxyType({ELEMENTWISE[n].formula: n for n in ("tanh", "sigmoid")})


def is_exact(line: Line) -> bool:
    """Whether machine code has the bits of its NumPy kernel."""
    return not line.args or line.formula in FORMULAS or (line.formula in OWN and line.dtype is float32)


def cuts_floats(lines: tuple[Line, ...], inputs: list[DType]) -> bool:
    """Whether a float becomes a whole number, which machines do in different ways where it does not fit."""
    dtypes = [*inputs]
    for line in lines:
        if line.args and line.dtype.kind == "int" and any(dtypes[a].kind == "float" for a in line.args):
            return True
        dtypes.append(line.dtype)
    return False


@dataclass(frozen=True, slots=True)
class Loop:
    """What a loop's source depends on; `steps`: of each input, and of the output, along the innermost axis.

    inside  the inputs that lie where the output does, and are read from there (see `ops/native.py`)
    """

    inputs: tuple[DType, ...]
    output: DType
    steps: tuple[int, ...]
    lines: tuple[Line, ...]
    inside: tuple[int, ...] = ()

    def source(self) -> str:
        """Arguments: how many rows, elements of a row, axes of rows, their shape and steps, the arrays."""
        count = len(self.inputs)
        text = ["def kernel(a):", "    rows, n, rank, table = a[0], a[1], a[2], i64_at(a[3])"]
        for i, t in enumerate((*self.inputs, self.output)):
            text.append(f"    p{i} = {'u8' if t.short == 'bool' else t.short}_at(a[{4 + i}])")
        text += ["    for row in range(rows):", "        rest = row"]
        text += [f"        b{i} = 0" for i in range(count + 1)]
        text += ["        for axis in range(rank - 1, -1, -1):"]
        text += ["            k = rest % table[axis]", "            rest //= table[axis]"]
        text += [f"            b{i} += k * table[{i + 1} * rank + axis]" for i in range(count + 1)]
        text += ["        for j in range(n):"]
        lying = [count if i in self.inside else i for i in range(count + 1)]
        places = [f"p{i}[b{i}{_along(step)}]" for i, step in zip(lying, self.steps, strict=True)]
        for i, t in enumerate(self.inputs):
            text.append(f"            v{i} = {places[i]}{' != 0' * (t.short == 'bool')}")
        dtypes = [*self.inputs]
        for line in self.lines:
            text.append(f"            v{len(dtypes)} = {value_text(line, dtypes)}")
            dtypes.append(line.dtype)
        return "\n".join([*text, f"            {places[-1]} = v{len(dtypes) - 1}", "    return 0", ""])


def _along(step: int) -> str:
    return "" if not step else " + j" if step == 1 else f" + j * {step}"


def value_text(line: Line, dtypes: list[DType]) -> str:
    """A line as an expression of earlier values: v0, v1, ..., of these types."""
    if not line.args:
        return line.formula
    own, names = tuple(dtypes[a] for a in line.args), tuple(f"v{a}" for a in line.args)
    if line.formula in OWN:
        return f"{OWN[line.formula]}_f32({names[0]})"
    return expression(line.formula, names, own, line.dtype, wraps=True)


@lru_cache(maxsize=4096)
def source_of(loop: Loop) -> str:
    """Its source, which is put together once."""
    return loop.source()


# -- from a source to machine code ------------------------------------------------------------------------------------
@lru_cache(maxsize=4096)
def loop_code(name: str, source: str) -> Code:
    """The function `kernel` of a generated source, which sees `ops/machine_code.py`'s pointers and numbers, under a name."""
    return kernel_code(name, built_from(source), lambda: lowered(source))


def is_loop_cached(name: str, source: str) -> bool:
    """Whether `loop_code` need not compile."""
    return is_cached(name, built_from(source))


def lowered(source: str, **more: Any) -> Any:
    """A generated source in LLVM's language; `more`: what it sees besides, by name."""
    code = import_module(MODULE)
    pointers = {f"{short}_at": at for short, at in code.POINTERS.items()}
    return code.compile_kernel(made(source, **pointers, **code.NUMBERS, **more))


@lru_cache(maxsize=4096)
def built_from(source: str, *modules: str) -> str:
    """All that the machine code of a generated source depends on; `modules`: besides those of every such code."""
    return f"{source}\n{digest_of(*SOURCES, *modules)}"
