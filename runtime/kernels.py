"""Instructions as callables that need no argument: op looked up, attributes parsed, arrays bound, once per program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rainshed.compiler.plan import Assign, Program, Run, Value
from rainshed.ops.access import Access, Box, box_size, boxes
from rainshed.ops.code_cache import can_compile
from rainshed.ops.errors import KernelError, PlanError, RainshedError
from rainshed.ops.fused import fused
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.matmul import matmul
from rainshed.ops.native import native_calls
from rainshed.ops.op import Op
from rainshed.ops.packed import packed_call, packed_product
from rainshed.ops.product import FEW, matmul_call, product, product_call
from rainshed.ops.records import SEPARATE, Records, copy_records, native_records, records_of
from rainshed.ops.source import input_op
from rainshed.ops.sweeps import in_order
from rainshed.ops.text import parse_attr
from rainshed.ops.transfer import copy
from rainshed.ops.types import TensorType, TupleType, dtype_of, fixed
from rainshed.runtime.buffers import Array, Buffers

Call = Callable[[], object]
Tile = tuple[Op, Attrs, list[Array], tuple[Array, ...]]
Cut = tuple[Attrs, tuple[Box, ...], Box]  # a tile's attributes, the regions that it reads, and the one that it gives
POLICIES = ("native", "numpy", "numba")
CUT = ("product", "convolution", "elementwise", "reduction")  # kinds of work whose kernels are cut for threads
ALIKE = ("elementwise", "reduction", "layout")  # whose pieces have the same bits, however many they are


def type_of(value: Value) -> TensorType:
    return TensorType(dtype_of(value.dtype), value.shape)


class Kernels:
    """Makes the calls of one program.

    policy  how kernels are done on the host: "numpy"; "native", small ones by machine code, with the same bits where they are
            element-wise; "numba", runs of element-wise ops as compiled loops
    Raises  PlanError, from `call`, if an op is not in `ops`, or would refuse this instruction
    """

    def __init__(self, program: Program, buffers: Buffers, ops: Mapping[str, Op], policy: str = POLICIES[0]) -> None:
        self._program = program
        self._arrays = buffers.arrays
        self._units = buffers.units
        self._loops = policy == "numba" and can_compile()
        self._native = policy != "numpy" and can_compile()
        self._ops = ops
        self._types = [type_of(value) for value in program.values]
        self._nodes: dict[object, Node] = {}  # instructions that differ in their arrays only are checked once
        self._cuts: dict[tuple[Node, int], list[Cut]] = {}  # and cut once

    def call(self, i: int) -> Call:
        """The call of a Run or an Assign."""
        instruction = self._program.instructions[i]
        if isinstance(instruction, Assign):
            return self._assign(instruction, i)
        if not isinstance(instruction, Run):
            raise PlanError(f"{self._where(i)}: {type(instruction).__name__} has no kernel")
        op = self._ops.get(instruction.op)
        if op is None:
            raise PlanError(f"{self._where(i)}: there is no op {instruction.op!r}")
        attrs = self._checked_node(i, op, instruction).attrs
        if any(self._units.at(v) for v in (*instruction.inputs, *instruction.outputs)):
            return self._on_unit(op, instruction, attrs)
        inputs = [self._arrays[v] for v in instruction.inputs]
        return self._bound(op, attrs, inputs, tuple(self._arrays[v] for v in instruction.outputs))

    def _bound(self, op: Op, attrs: Attrs, inputs: list[Array], outs: tuple[Array, ...]) -> Call:
        if op is product:
            return product_call(attrs, *inputs, *outs)
        found = matmul_call(inputs[0], inputs[1], outs[0]) if op is matmul else None
        if op is packed_product and self._native:
            found = packed_call((*inputs, *outs), attrs["summed"])
        if found is not None:
            return found
        if len(outs) == 1 and (self._loops if op is fused else self._has_native(op)):
            return in_order(native_calls(op, (*inputs, *outs), attrs))
        return partial(op.cpu, *inputs, outs[0] if len(outs) == 1 else outs, **attrs)

    def _has_native(self, op: Op) -> bool:
        return self._native and op.native is not None

    def pieces(self, i: int, parts: int) -> tuple[Call, ...]:
        """The calls of a Run cut in `parts`, which may run at once, as tiles on machines do; none where it cannot be cut."""
        run = self._program.instructions[i]
        if not isinstance(run, Run) or len(run.outputs) != 1 or self._ops[run.op].work not in CUT:
            return ()
        if any(self._units.at(v) for v in (*run.inputs, *run.outputs)):
            return ()
        op, node = self._ops[run.op], self._checked_node(i, self._ops[run.op], run)
        if self._has_native(op):
            operands = tuple(self._arrays[v] for v in (*run.inputs, *run.outputs))
            calls = tuple(native_calls(op, operands, node.attrs, parts))
            if len(calls) > 1 or op.formula is None:
                return calls  # an element-wise op without code for these types is cut as the others are
        return tuple(self._bound(*tile) for tile in self._tiles(op, node, run, parts))

    def _tiles(self, op: Op, node: Node, run: Run, parts: int) -> list[Tile]:
        """A Run cut in `parts`, none of which needs another."""
        cuts = self._cuts.get((node, parts))
        if cuts is None:
            cuts = self._cuts[node, parts] = _cuts(op, node, parts)
        out = self._arrays[run.outputs[0]]
        found: list[Tile] = []
        for attrs, regions, result in cuts:
            inputs = [part_of(self._arrays[v], region) for v, region in zip(run.inputs, regions, strict=True)]
            found.append((op, attrs, inputs, (part_of(out, result),)))
        return found

    def same_bits(self, i: int, parts: int) -> bool:
        """Whether an instruction in so many pieces has the bits of the whole: a product, if each matrix is one by itself."""
        run = self._program.instructions[i]
        if not isinstance(run, Run) or self._ops[run.op].work in ALIKE:
            return True
        if run.op not in (matmul.name, product.name) or len(run.inputs) > 2:
            return False
        stacks = {self._program.values[v].shape[:-2] for v in (*run.inputs, *run.outputs)}
        return len(stacks) == 1 and all(math.prod(s) <= FEW and parts <= max(s, default=0) for s in stacks)

    def chains(self, i: int, parts: int, *, compiling: bool) -> tuple[Records, ...] | None:
        """What machine code does in the place of the call of a Run or an Assign, or of its pieces: records to be done one after
        the other, several of such chains at once; None where there is nothing."""
        instruction = self._program.instructions[i]
        if isinstance(instruction, Assign):
            inputs, outputs = (instruction.value,), (instruction.variable,)
        elif isinstance(instruction, Run) and len(instruction.outputs) == 1:
            inputs, outputs = instruction.inputs, instruction.outputs  # type: ignore[assignment]
        else:
            return None
        if any(self._units.at(v) for v in (*inputs, *outputs)):
            return None
        arrays, out = [self._arrays[v] for v in inputs], self._arrays[outputs[0]]
        if isinstance(instruction, Assign):
            copied = copy_records(arrays[0], out, compiling=compiling)
            return None if copied is None else (copied,)
        op = self._ops[instruction.op]
        node = self._checked_node(i, op, instruction)
        if self._has_native(op):
            by_code = native_records(native_calls(op, (*arrays, out), node.attrs, parts))
            if by_code is not None:
                return by_code
        if parts > 1 and op.native is None:
            tiles = self._tiles(op, node, instruction, parts)
            found = [records_of(o, attrs, xs, out, compiling=compiling) for o, attrs, xs, (out,) in tiles]
            if len(found) > 1 and all(found):
                return tuple(records for records in found if records is not None)
        whole = records_of(op, node.attrs, arrays, out, compiling=compiling)
        if whole is None:
            return None
        return tuple((record,) for record in whole) if op.name in SEPARATE else (whole,)

    def error(self, i: int, error: Exception) -> RainshedError:
        """What the kernel of instruction `i` raised, with op, machine and the user's line."""
        run = self._program.instructions[i]
        name = run.op if isinstance(run, Run) else "assign"
        detail: dict[str, object] = {"machine": self._program.machine}
        if isinstance(run, Run):
            detail["inputs"] = ", ".join(str(type_of(self._program.values[v])) for v in run.inputs) or "none"
            detail["layer"] = run.scope or None
            detail["built_at"] = run.line or None
        if isinstance(error, RainshedError):
            # Its own words, and what it does not say yet.
            return type(error)(error.message, **{**detail, **error.detail})
        return KernelError(f"{name}: its kernel raised {type(error).__name__}: {error}", **detail)

    def _on_unit(self, op: Op, run: Run, attrs: Attrs) -> Call:
        if op is copy:
            return self._units.carry(run.inputs[0], run.outputs[0], self._arrays)
        return self._units.call(op, run.inputs, run.outputs[0], attrs)

    def _assign(self, assign: Assign, i: int) -> Call:
        old, new = self._types[assign.variable], self._types[assign.value]
        if old != new:
            raise PlanError(f"{self._where(i)}: variable {old} is given a value {new}")
        return self._units.carry(assign.value, assign.variable, self._arrays)

    def _checked_node(self, i: int, op: Op, run: Run) -> Node:
        """The instruction as a node of its own, whose attributes have the form that the kernel takes; the op has checked it."""
        inputs = tuple([self._types[v] for v in run.inputs])
        outputs = tuple([self._types[v] for v in run.outputs])
        key = (op.name, inputs, outputs, tuple(run.attrs.items()))
        if key not in self._nodes:
            try:
                node = op.make(
                    tuple(_leaf(t) for t in inputs), {name: parse_attr(text) for name, text in run.attrs.items()}
                )
            except RainshedError as error:
                where = {**error.detail, "built_at": run.line or None}
                raise PlanError(f"{self._where(i)}: {error.message}", **where) from None
            made = node.type.items if isinstance(node.type, TupleType) else (node.type,)
            if made != outputs:
                found, planned = ", ".join(map(str, made)), ", ".join(map(str, outputs))
                raise PlanError(
                    f"{self._where(i)}: {op.name} makes {found}; planned is {planned}", built_at=run.line or None
                )
            self._nodes[key] = node
        return self._nodes[key]

    def _where(self, i: int) -> str:
        return f"instruction {i} of {self._program.machine}"


def _leaf(type: TensorType) -> Node:
    return input_op.make((), {"name": "x", "shape": type.shape, "dtype": type.dtype})


def _cuts(op: Op, node: Node, parts: int) -> list[Cut]:
    """A node in `parts` tiles; none where it has attributes that hold for the whole only."""
    access, shapes = node.access, tuple(fixed(i.shape) for i in node.inputs)
    try:
        return [
            (op.tile_attrs(node, box), access.regions(box, shapes), access.result(box, fixed(node.shape)))
            for box in _boxes(access, shapes, parts, first=op.work != "product")
        ]
    except RainshedError:
        return []


def _boxes(access: Access, shapes: tuple[tuple[int, ...], ...], parts: int, *, first: bool) -> tuple[Box, ...]:
    """The loop nest in `parts` along one axis: the first that can be cut, or the one for which least is read."""
    best: tuple[int, tuple[Box, ...]] | None = None
    for i, axis in enumerate(access.axes):
        if axis.role != "join" or axis.max_parts < parts:
            continue
        found = boxes(access, tuple(parts if j == i else 1 for j in range(len(access.axes))))
        read = sum(box_size(region) for box in found for region in access.regions(box, shapes))
        if best is None or read < best[0]:
            best = read, found
        if first:
            break
    return () if best is None else best[1]


def slices(box: Box) -> tuple[slice, ...]:
    """The box as an index of a NumPy array."""
    return tuple(slice(low, high) for low, high in box)


def text_of(box: Sequence[Sequence[int]] | None) -> str:
    """A region as an index: [0:64, 10:20]."""
    return "" if not box else "[" + ", ".join(f"{low}:{high}" for low, high in box) + "]"


def part_of(whole: Array, box: Box) -> Array:
    """The region `box` of an array, not copied; for a scalar it is an array, too."""
    index: tuple[Any, ...] = (*slices(box), ...)
    part: Array = whole[index]
    return part
