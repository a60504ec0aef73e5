"""Kernels as records for machine code: an address, and the numbers that it is called with. What has no record runs by Python.

The results have the bits of the Python kernels: so it makes no difference when a program goes over to machine code.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from rainshed.ops.array_kernel import Bound, run_bound
from rainshed.ops.bf16_cast import converter, is_short_cast
from rainshed.ops.blas import Array, routine
from rainshed.ops.blas import Bound as BlasCall
from rainshed.ops.broadcast import broadcast_to, sum_to
from rainshed.ops.code_cache import Code, digest_of, is_cached, kernel_code
from rainshed.ops.cuda import merged
from rainshed.ops.elementwise import astype
from rainshed.ops.fused import fused, lines_of
from rainshed.ops.ir import Attrs
from rainshed.ops.layout import concat_op, permute_dims
from rainshed.ops.loops import (
    MODULE,
    SOURCES,
    Loop,
    built_from,
    cuts_floats,
    is_exact,
    is_loop_cached,
    loop_code,
    lowered,
    source_of,
)
from rainshed.ops.matmul import matmul, matrix_transpose
from rainshed.ops.native import is_same_place
from rainshed.ops.op import Call, Op
from rainshed.ops.packed import pack, pack_code, pack_numbers, packed_code, packed_product, product_numbers
from rainshed.ops.product import matmul_call, product, product_call
from rainshed.ops.reduce import sum as sum_
from rainshed.ops.reshape import reshape
from rainshed.ops.scalar import Line, number_text
from rainshed.ops.slice import slice_op, unslice, view_of
from rainshed.ops.softmax import softmax
from rainshed.ops.softmax_cross_entropy import softmax_cross_entropy, softmax_cross_entropy_grad
from rainshed.ops.sweeps import Sweep, do_all
from rainshed.ops.types import dtype_of


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One call: `numbers` are the arguments of `function`; `kept` are the arrays behind the addresses among them.

    room  how many numbers of working memory the two last of its arrays need, whose addresses are still to be given
    """

    function: Code
    numbers: Array
    kept: tuple[Any, ...]
    room: tuple[int, int] = (0, 0)

    def work_in(self, address: int) -> None:
        """Give it working memory, from this address on."""
        first, second = self.room
        self.numbers[-4:] = address, first, address + 4 * first, second


Records = tuple[Record, ...]
BY_STEPS: Final = frozenset(
    {
        "product", "matmul", "slice", "unslice", "concat", "permute_dims", "matrix_transpose", "broadcast_to", "pack",
        "packed_product",
    }
)  # whose arrays may lie in steps  # fmt: skip
SEPARATE: Final = frozenset({"concat"})  # none of their records needs another
MANY_ROWS: Final = 4096
LOOP: Final = "loop"  # the name of element-wise loops in the cache


def records_of(op: Op, attrs: Attrs, inputs: list[Array], out: Array, *, compiling: bool = True) -> Records | None:
    """The calls that do what the op's kernel does with these arrays, which must not move; None: there are none.

    compiling  False: no loop is compiled that this process or the cache on disk does not have
    """
    if not out.size or any(not x.size for x in (*inputs, out)):
        return None
    if op is astype and is_short_cast(dtype_of(inputs[0].dtype), dtype_of(out.dtype)):
        in_rows = all(x.flags.c_contiguous for x in (*inputs, out))
        return _cast(inputs[0], out, compiling) if in_rows else None
    if op is fused:
        return _loop(lines_of(attrs["body"]), inputs, out, compiling)
    if op.formula is not None:
        return _loop((Line(op.formula, tuple(range(len(inputs))), dtype_of(out.dtype)),), inputs, out, compiling)
    rule = _RULES.get(op.name)
    if rule is None or any(x.dtype.kind == "f" and x.dtype != np.float32 for x in (*inputs, out)):
        return None
    if op.name not in BY_STEPS and any(not x.flags.c_contiguous for x in (*inputs, out)):
        return None
    return rule(attrs, inputs, out, compiling)


def native_records(calls: Sequence[Call]) -> tuple[Records, ...] | None:
    """Calls of compiled kernels, each as its records; None where one of them is done by Python."""
    found = [_compiled_calls(call) for call in calls]
    if any(records is None for records in found):
        return None
    return tuple(records for records in found if records is not None)


def _compiled_calls(call: Call) -> Records | None:
    if isinstance(call, Sweep):
        return (_record_of(call.bound()),)
    if isinstance(call, partial) and call.func is run_bound:
        return (_record_of(call.args[2]),)
    if isinstance(call, BlasCall):
        return _multiplied(call, call.kept)
    if isinstance(call, partial) and call.func is do_all:
        return _all(*(_compiled_calls(one) for one in call.args[0]))
    return None


def _record_of(bound: Bound) -> Record:
    return Record(bound.code, bound.numbers, bound.kept, bound.room)


class _MachineCode:
    """The kernels of `ops/machine_code.py` by name, which is imported only if the cache on disk does not have one."""

    def __getattr__(self, name: str) -> Code:
        code = kernel_code(name, digest_of(*SOURCES), lambda: getattr(import_module(MODULE), name)())
        setattr(self, name, code)
        return code


@lru_cache(maxsize=1)
def machine_code() -> Any:
    return _MachineCode()


# -- element-wise loops -----------------------------------------------------------------------------------------------
def _loop(lines: tuple[Line, ...], inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    """The loop over all elements; the arrays may lie in steps."""
    types = [dtype_of(x.dtype) for x in (*inputs, out)]
    known = all(is_exact(line) for line in lines) and not cuts_floats(lines, types[:-1])
    if not known or any(t.short not in ("f32", "f64", "i32", "i64", "bool") for t in types):
        return None
    shape, *steps = merged(out.shape, *(_steps(x, out.shape) for x in (*inputs, out)))
    outer = np.array([shape[:-1], *(s[:-1] for s in steps)], np.int64)
    inside = tuple(i for i, x in enumerate(inputs) if is_same_place(x, out) and steps[i] == steps[-1])
    source = source_of(Loop(tuple(types[:-1]), types[-1], tuple(s[-1] for s in steps), lines, inside))
    if not compiling and not is_loop_cached(LOOP, source):
        return None
    function = loop_code(LOOP, source)
    numbers = [math.prod(shape[:-1]), shape[-1], len(shape) - 1, outer.ctypes.data, *map(_address, (*inputs, out))]
    return (Record(function, np.array(numbers, np.int64), (outer, *inputs, out)),)


def _steps(x: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements from one to the next along each axis, as it is read in this shape; 0 along one of a single element."""
    size = x.itemsize
    own = [0 if n == 1 else step // size for n, step in zip(x.shape, x.strides, strict=True)]
    return (*(0,) * (len(shape) - len(own)), *own)


CAST = """\
def kernel(a):
    n, x, out = a[0], {0}_at(a[1]), {1}_at(a[2])
    for i in range(n):
        out[i] = convert(x[i])
    return 0
"""


def _cast(x: Array, out: Array, compiling: bool) -> Records | None:
    """Between float32 and bfloat16."""
    short = x.itemsize < out.itemsize
    source = CAST.format("u16" if short else "u32", "u32" if short else "u16")
    depends = built_from(source, "rainshed.ops.bf16_cast")
    if not compiling and not is_cached("cast", depends):
        return None
    code = kernel_code("cast", depends, lambda: lowered(source, convert=converter(short)))
    return (_record(code, (out.size,), (x, out)),)


def _address(x: Array) -> int:
    return int(x.ctypes.data)


def copy_records(source: Array, out: Array, *, compiling: bool) -> Records | None:
    """The calls that copy an array to one of its shape, both of which may lie in steps."""
    return _loop((Line("x0", (0,), dtype_of(out.dtype)),), [source], out, compiling) if out.size else ()


# -- elements in other places -----------------------------------------------------------------------------------------
def _reshape(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    return copy_records(inputs[0].reshape(out.shape), out, compiling=compiling)


def _permute(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    return copy_records(inputs[0].transpose(attrs["axes"]), out, compiling=compiling)


def _transpose(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    return copy_records(np.swapaxes(inputs[0], -1, -2), out, compiling=compiling)


def _broadcast(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    return copy_records(inputs[0], out, compiling=compiling)


def _slice(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    return copy_records(view_of(inputs[0], attrs), out, compiling=compiling)


def _unslice(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    dtype = dtype_of(out.dtype)
    zeros = _loop((Line(number_text(np.zeros((), out.dtype), dtype), (), dtype),), [], out, compiling)
    return _all(zeros, copy_records(inputs[0], view_of(out, attrs), compiling=compiling))


def _concat(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    ends = np.cumsum([x.shape[attrs["axis"]] for x in inputs])
    places = np.split(out, ends[:-1], axis=attrs["axis"])
    return _all(*(copy_records(x, to, compiling=compiling) for x, to in zip(inputs, places, strict=True)))


def _all(*parts: Records | None) -> Records | None:
    """One after the other; None where one of them is."""
    found: list[Record] = []
    for part in parts:
        if part is None:
            return None
        found += part
    return tuple(found)


# -- products, reductions ---------------------------------------------------------------------------------------------
def _product(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    return _by_blas(product_call(attrs, *inputs, out), (*inputs, out), compiling)


def _by_blas(call: partial[Any], kept: tuple[Array, ...], compiling: bool) -> Records | None:
    steps = call.args[0] if call.args and isinstance(call.args[0], tuple) else (call,)
    return _all(*(_stepped(step, kept, compiling) for step in steps))


def _stepped(step: Any, kept: tuple[Array, ...], compiling: bool) -> Records | None:
    """What is done before a product, or a part of it."""
    if step.func is np.copyto:
        out, source = step.args
        return copy_records(source, out, compiling=compiling)
    if step.func is np.concatenate:
        (parts,) = step.args
        return _concat(step.keywords, parts, step.keywords["out"], compiling)
    return _multiplied(step, kept)


def _multiplied(step: Any, kept: tuple[Array, ...]) -> Records | None:
    """One call of BLAS. Only with 64-bit sizes: they are read as they stand."""
    function = step.func
    if function not in (routine("s", "gemm"), routine("s", "gemv")) or ctypes.c_int64 not in function.argtypes:
        return None
    numbers = [ctypes.cast(function, ctypes.c_void_p).value or 0]
    for value in step.args:
        numbers.append(value if isinstance(value, int) else int(np.float32(value).view(np.uint32)))
    code = machine_code()
    run = code.multiply if function is routine("s", "gemm") else code.multiply_vector
    return (Record(run, np.array(numbers, np.int64), kept),)


def _matmul(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    call = matmul_call(inputs[0], inputs[1], out)
    return None if call is None else _by_blas(call, (*inputs, out), compiling)


def _pack(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    code, numbers = pack_code(), pack_numbers(inputs[0], out, attrs["turn"])
    return None if code is None or numbers is None else (Record(code, numbers, (inputs[0], out)),)


def _packed_product(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    code, found = packed_code(), product_numbers((*inputs, out), attrs["summed"])
    if code is None or found is None:
        return None
    return _all(copy_records(inputs[2], out, compiling=compiling) if len(inputs) > 2 else (), (Record(code, *found),))


def _sum_to(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    (x,) = inputs
    shape = (1,) * (x.ndim - out.ndim) + out.shape
    return _added([i for i, (n, left) in enumerate(zip(x.shape, shape, strict=True)) if n != left], x, out, compiling)


def _sum(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    (x,) = inputs
    return _added([i for i in attrs["axis"] if x.shape[i] > 1], x, out, compiling)


def _added(axes: list[int], x: Array, out: Array, compiling: bool) -> Records | None:
    """Sums over these axes, each longer than 1, where no others that are lie between them."""
    if x.dtype != np.float32:
        return None
    if not axes:
        return copy_records(x.reshape(out.shape), out, compiling=compiling)
    first, end = axes[0], axes[-1] + 1
    many, rows, columns = (math.prod(part) for part in (x.shape[:first], x.shape[first:end], x.shape[end:]))
    if rows > MANY_ROWS or rows != math.prod(x.shape[i] for i in axes):  # NumPy adds long sums in pairs: more exact
        return None
    code = machine_code()
    return (_record(code.add_all if columns == 1 else code.add_rows, (many, rows, columns), (x, out)),)


def _softmax(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    (x,) = inputs
    columns = x.shape[attrs["axis"]]
    if x.dtype != np.float32 or math.prod(x.shape[attrs["axis"] :]) != columns:
        return None
    return (_record(machine_code().softmax_rows, (x.size // columns, columns), (x, out)),)


def _record(kernel: Any, sizes: tuple[int, ...], arrays: tuple[Array, ...]) -> Record:
    return Record(kernel, np.array([*sizes, *map(_address, arrays)], np.int64), arrays)


def _losses(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    logits, labels = inputs
    if labels.dtype != np.int64 or labels.shape != logits.shape[:-1]:
        return None
    return (_record(machine_code().cross_entropy, (labels.size, logits.shape[-1]), (logits, labels, out)),)


def _slopes(attrs: Attrs, inputs: list[Array], out: Array, compiling: bool) -> Records | None:
    logits, labels, dy = inputs
    if labels.dtype != np.int64 or labels.shape != logits.shape[:-1] or dy.shape != labels.shape:
        return None
    return (_record(machine_code().cross_entropy_slope, (labels.size, logits.shape[-1]), (logits, labels, dy, out)),)


Rule = Callable[[Attrs, list[Array], Array, bool], Records | None]
_RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        product.name: _product,
        matmul.name: _matmul,
        pack.name: _pack,
        packed_product.name: _packed_product,
        sum_to.name: _sum_to,
        reshape.name: _reshape,
        permute_dims.name: _permute,
        matrix_transpose.name: _transpose,
        broadcast_to.name: _broadcast,
        slice_op.name: _slice,
        unslice.name: _unslice,
        concat_op.name: _concat,
        sum_.name: _sum,
        softmax.name: _softmax,
        softmax_cross_entropy.name: _losses,
        softmax_cross_entropy_grad.name: _slopes,
    }
)
