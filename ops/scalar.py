"""From scalar formulas to loops: the one text of an element-wise op, as a kernel for CUDA and for the CPU.

A formula (`Row.formula`, `Op.formula`) is an expression in x0, x1, ...; here it becomes a line of a generated function.
Numbers in it, and what the roundings give, take the element type of the operands, so that float32 stays float32.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rainshed.ops.cuda import THREADS, Grid, Kernel, Launch, Launches, cuda, merged, steps_of, stretched
from rainshed.ops.types import DTYPES, DType, Shape, TensorType, bfloat16, bool_, fixed, promote

TO_INT = frozenset({"floor", "ceil", "trunc", "round"})  # give a Python int
TYPES = {d.short: getattr(np, d.name if d is not bool_ else "bool_") for d in DTYPES if d is not bfloat16} | {
    "u64": np.uint64
}
# How an input is read: element i; its only element; by steps; element i of the output, which lies in its place.
ONE, ALONE, STEPS, OUT = "one", "alone", "steps", "out"
FIRST = "first"  # a reduction begins with its first element: only where an element may count twice
BLOCK_FROM = 64  # elements in a sum from which a block of threads makes it, not one thread


@dataclass(frozen=True, slots=True)
class Line:
    """One value: `formula` of earlier values (inputs are 0, 1, ...; then the lines in order), of this element type."""

    formula: str
    args: tuple[int, ...]
    dtype: DType


# -- one expression ---------------------------------------------------------------------------------------------------
class _Typed(ast.NodeTransformer):
    """Puts operands in the place of x0, x1, ...; wraps numbers and roundings in their element type.

    wraps   sums and products of i64 are made of u64: they wrap around as NumPy's do, where a compiler takes it that signed ones
            never do, and that x + 1 > x
    """

    def __init__(self, names: tuple[str, ...], type: str, wraps: bool) -> None:
        self.names, self.type, self.wraps = names, type, wraps and type == "i64"

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id[0] == "x" and node.id[1:].isdigit():
            return ast.Name(self.names[int(node.id[1:])], ast.Load())
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return self._wrapped(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return self._wrapped(node) if name in TO_INT else node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not self.wraps or not isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
            return node
        return self._wrapped(ast.BinOp(_as("u64", node.left), node.op, _as("u64", node.right)))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if not self.wraps or not isinstance(node.op, ast.USub):
            return node
        return self._wrapped(ast.BinOp(_as("u64", ast.Constant(0)), ast.Sub(), _as("u64", node.operand)))

    def _wrapped(self, node: ast.expr) -> ast.AST:
        return _as(self.type, node)


def _as(type: str, node: ast.expr) -> ast.expr:
    return ast.Call(ast.Name(type, ast.Load()), [node], [])


@lru_cache(maxsize=4096)
def expression(
    formula: str, names: tuple[str, ...], dtypes: tuple[DType, ...], result: DType, wraps: bool = False
) -> str:
    """The formula on the operands `names`, of these element types, as an expression of the type `result`; see _Typed."""
    if formula == "x0" and result is bool_:
        formula = "x0 != 0" if dtypes[0] is not bool_ else "x0"
    numbers = [d for d in dtypes if d is not bool_] or [bool_]
    tree = _Typed(names, promote("formula", *numbers).short, wraps).visit(ast.parse(formula, mode="eval"))
    text = ast.unparse(ast.fix_missing_locations(tree))
    return text if result is bool_ else f"{result.short}({text})"


def number_text(value: np.ndarray, dtype: DType) -> str:
    """One number as an expression that gives exactly it."""
    number = value.reshape(()).item()
    if isinstance(number, float) and not math.isfinite(number):
        text = "math.nan" if math.isnan(number) else "math.inf" if number > 0 else "-math.inf"
    else:
        text = repr(number)
    return text if dtype is bool_ else f"{dtype.short}({text})"


# -- element-wise loops -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Loop:
    """An element-wise computation: the type of each input and how it is read, and the lines; the last is the result."""

    inputs: tuple[DType, ...]
    reads: tuple[str, ...]
    lines: tuple[Line, ...]

    def source(self, header: str, wraps: bool = False) -> str:
        """A function kernel(x0, ..., out, n, [shape, steps...]) whose loop over the elements begins with `header`."""
        strided = [i for i, read in enumerate(self.reads) if read == STEPS]
        more = ", shape" * bool(strided) + "".join(f", s{i}" for i in strided)
        text = [f"def kernel({''.join(f'x{i}, ' for i in range(len(self.inputs)))}out, n{more}):", f"    {header}"]
        if strided:
            text += [f"        {' = '.join(f'j{i}' for i in strided)} = 0", "        rest = i"]
            text += ["        for axis in range(len(shape) - 1, -1, -1):", "            k = rest % shape[axis]"]
            text += ["            rest //= shape[axis]", *(f"            j{i} += k * s{i}[axis]" for i in strided)]
        for i, read in enumerate(self.reads):
            place = {ONE: f"x{i}[i]", ALONE: f"x{i}[0]", STEPS: f"x{i}[j{i}]", OUT: "out[i]"}[read]
            text.append(f"        v{i} = {place}")
        dtypes = [*self.inputs]
        for line in self.lines:
            own, names = tuple(dtypes[a] for a in line.args), tuple(f"v{a}" for a in line.args)
            value = expression(line.formula, names, own, line.dtype, wraps) if line.args else line.formula
            text.append(f"        v{len(dtypes)} = {value}")
            dtypes.append(line.dtype)
        return "\n".join([*text, f"        out[i] = v{len(dtypes) - 1}", ""])


def loop_of(types: tuple[TensorType, ...], output: TensorType, lines: tuple[Line, ...]) -> tuple[Loop, tuple[Any, ...]]:
    """The loop of these types, and the numbers that its kernel takes after `out`."""
    shape = fixed(output.shape)
    axes = [stretched(fixed(t.shape), shape) for t in types]
    own = steps_of(shape)
    reads = []
    for t, steps in zip(types, axes, strict=True):
        same = all(a == b or n == 1 for a, b, n in zip(steps, own, shape, strict=True))
        reads.append(ALONE if t.size == 1 else ONE if same else STEPS)
    strided = [steps for steps, read in zip(axes, reads, strict=True) if read == STEPS]
    numbers: tuple[Any, ...] = (output.size, *(merged(shape, *strided) if strided else ()))
    return Loop(tuple(t.dtype for t in types), tuple(reads), lines), numbers


@lru_cache(maxsize=4096)
def cuda_loop(loop: Loop) -> Kernel:
    return Kernel(made(loop.source("for i in range(cuda.grid(1), n, cuda.gridsize(1)):")))


def elementwise(types: tuple[TensorType, ...], output: TensorType, lines: tuple[Line, ...]) -> Launches:
    """The launch of an element-wise computation."""
    if not output.size:
        return ()
    loop, numbers = loop_of(types, output, lines)
    return (Launch(cuda_loop(loop), tuple(range(len(types))), numbers, Grid(threads=output.size)),)


def formula_rule(formula: str) -> Callable[..., Launches]:
    """`Op.cuda` of an op with one formula."""

    def rule(types: tuple[TensorType, ...], output: TensorType, attrs: Any) -> Launches:
        return elementwise(types, output, (Line(formula, tuple(range(len(types))), output.dtype),))

    return rule


def made(source: str, filename: str = "<rainshed kernel>", **names: Any) -> Callable[..., None]:
    """The function `kernel` of a generated source, which sees these names, too."""
    namespace: dict[str, Any] = {"cuda": cuda, "math": math, "THREADS": THREADS, **TYPES, **names, "__name__": __name__}
    exec(compile(source, filename, "exec"), namespace)  # the text is ours: made from formulas of ops and numbers
    function: Callable[..., None] = namespace["kernel"]
    return function


# -- reductions -------------------------------------------------------------------------------------------------------
_OFFSET = """\
{pad}{at} = {base}
{pad}rest = {index}
{pad}for axis in range(len({shape}) - 1, -1, -1):
{pad}    {at} += rest % {shape}[axis] * {steps}[axis]
{pad}    rest //= {shape}[axis]
"""

_EACH = """\
def kernel(x, out, n, r, kept, kept_steps, reduced, reduced_steps):
    for o in range(cuda.grid(1), n, cuda.gridsize(1)):
{outer}
        total = {start}
        for e in range(r):
{inner}
            other = x[at]
            total = {combined}
        out[o] = total
"""

_BLOCK = """\
def kernel(x, out, n, r, kept, kept_steps, reduced, reduced_steps):
    part = cuda.shared.array(THREADS, {shared})
    t = cuda.threadIdx.x
    for o in range(cuda.blockIdx.x, n, cuda.gridDim.x):
{outer}
        total = {start}
        for e in range(t, r, cuda.blockDim.x):
{inner}
            other = x[at]
            total = {combined}
        part[t] = total
        cuda.syncthreads()
        half = cuda.blockDim.x // 2
        while half > 0:
            if t < half:
                total = part[t]
                other = part[t + half]
                part[t] = {combined}
            cuda.syncthreads()
            half //= 2
        if t == 0:
            out[o] = part[0]
        cuda.syncthreads()
"""


@lru_cache(maxsize=256)
def reduction(formula: str, start: str, dtype: DType, block: bool) -> Kernel:
    """A reduction by `formula` of two: a thread, or a block of threads with a tree in shared memory, per result.

    start  the number that it begins with, or FIRST
    """
    outer = _OFFSET.format(pad=" " * 8, at="first", base="0", index="o", shape="kept", steps="kept_steps")
    inner = _OFFSET.format(pad=" " * 12, at="at", base="first", index="e", shape="reduced", steps="reduced_steps")
    begin = "x[first]" if start == FIRST else start if dtype is bool_ else f"{dtype.short}({start})"
    combined = expression(formula, ("total", "other"), (dtype, dtype), dtype)
    template = _BLOCK if block else _EACH
    parts = {"outer": outer.rstrip(), "inner": inner.rstrip(), "start": begin, "combined": combined}
    return Kernel(made(template.format(**parts, shared=dtype.short)))


def reduce_axes(x: TensorType, axes: tuple[int, ...], formula: str, start: str) -> Launches:
    """The launch that reduces these axes; the result holds the others, in order."""
    shape: Shape = fixed(x.shape)
    steps = steps_of(fixed(shape))
    kept = [i for i in range(len(shape)) if i not in axes]
    n, r = math.prod(fixed(shape)[i] for i in kept), math.prod(fixed(shape)[i] for i in axes)
    if not n:
        return ()
    numbers: list[Any] = [n, r]
    for group in (kept, axes):
        numbers += merged(tuple(fixed(shape)[i] for i in group), tuple(steps[i] for i in group))
    block = r >= BLOCK_FROM
    grid = Grid(blocks=n) if block else Grid(threads=n)
    return (Launch(reduction(formula, start, x.dtype, block), (0,), tuple(numbers), grid),)
