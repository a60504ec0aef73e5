"""CUDA kernels: how an op writes one, and what it tells the runtime to launch. Nothing here imports Numba.

A kernel is a plain Python function over the name `cuda`, in the file of its op:

    @kernel
    def _double(x: Any, out: Any, n: int) -> None:
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            out[i] = 2 * x[i]

It takes inputs, the output, then numbers and tuples of numbers. Every array is flat and contiguous; shapes and steps
come as numbers: one compilation serves every shape. A kernel loops over its grid: a grid of any size does all the work.
`Op.cuda` is a function (types of the inputs, type of the output, attributes) -> the launches that fill the output, in
order. `ops/launch.py` compiles and launches them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rainshed.ops.types import TensorType, fixed

# Threads of a block and the edge of a tile in shared memory, as kernels see them; a launcher may bind other numbers.
THREADS = 128
TILE = 16


class _Unbound:
    """Stands for `numba.cuda` in the files of ops; a launcher puts the module itself in its place."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"cuda.{name}: this kernel is not bound to a device; ops/launch.py does that")


cuda: Any = _Unbound()


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """A kernel that is not compiled yet."""

    function: Callable[..., None]


def kernel(function: Callable[..., None]) -> Kernel:
    return Kernel(function)


@dataclass(frozen=True, slots=True)
class Grid:
    """What a launch has to do: so much work for `threads`; or for `blocks`; or (columns, rows, matrices) of elements, a
    tile of which is made by a block of TILE x TILE threads."""

    threads: int = 0
    blocks: int = 0
    tiles: tuple[int, int, int] = (0, 0, 0)


Number = float | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """kernel(*(inputs[i] for i in reads), out, *numbers)"""

    kernel: Kernel
    reads: tuple[int, ...]
    numbers: tuple[Number, ...]
    grid: Grid


Launches = tuple[Launch, ...]
CudaRule = Callable[[tuple[TensorType, ...], TensorType, Mapping[str, Any]], Launches]
Shape = tuple[int, ...]


# -- shapes and steps -------------------------------------------------------------------------------------------------
def steps_of(shape: Shape) -> Shape:
    """How far apart, in elements, the neighbours along each axis of a row-major array are."""
    steps = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        steps[i] = steps[i + 1] * shape[i + 1]
    return tuple(steps)


def stretched(shape: Shape, to: Shape) -> Shape:
    """The steps by which an array of `shape` is read as one of the shape `to`, by broadcasting."""
    lead = len(to) - len(shape)
    own = steps_of(shape)
    return tuple(0 if i < lead or shape[i - lead] == 1 else own[i - lead] for i in range(len(to)))


def merged(shape: Shape, *steps: Shape) -> tuple[Shape, ...]:
    """The same walk over several arrays with as few axes as may be, but at least one: shape, then the steps of each."""
    axes: list[tuple[int, ...]] = []
    for size, *at in zip(shape, *steps, strict=True):
        if size == 1:
            continue
        if axes and all(outer == inner * size for outer, inner in zip(axes[-1][1:], at, strict=True)):
            axes[-1] = (axes[-1][0] * size, *at)
        else:
            axes.append((size, *at))
    return tuple(zip(*(axes or [(1,) + (0,) * len(steps)]), strict=True))


# -- moving and filling: the kernels that many ops share --------------------------------------------------------------
@kernel
def _move(x: Any, out: Any, n: int, shape: Shape, x_steps: Shape, out_steps: Shape, x_base: int, out_base: int) -> None:
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        rest, at, to = i, x_base, out_base
        for axis in range(len(shape) - 1, -1, -1):
            k = rest % shape[axis]
            rest //= shape[axis]
            at += k * x_steps[axis]
            to += k * out_steps[axis]
        out[to] = x[at]


@kernel
def _fill(out: Any, n: int, value: float) -> None:
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        out[i] = value


def move(
    shape: Shape, x_steps: Shape, out_steps: Shape, *, x_base: int = 0, out_base: int = 0, read: int = 0
) -> Launches:
    """Copy a box of `shape` from one place of an input to one of the output; steps may be 0 or negative."""
    n = _size(shape)
    if not n:
        return ()
    numbers: tuple[Number, ...] = (n, *merged(shape, x_steps, out_steps), x_base, out_base)
    return (Launch(_move, (read,), numbers, Grid(threads=n)),)


def fill(n: int, value: float) -> Launches:
    return (Launch(_fill, (), (n, value), Grid(threads=n)),) if n else ()


def same_order(types: tuple[TensorType, ...], output: TensorType, attrs: Mapping[str, Any]) -> Launches:
    """The launches of an op that keeps every element in its place in memory: reshape, copy."""
    return move((output.size,), (1,), (1,))


def put_box(types: tuple[TensorType, ...], output: TensorType, read: int, box: tuple[tuple[int, int], ...]) -> Launches:
    """Copy an input to its box of the output."""
    steps = steps_of(fixed(output.shape))
    base = sum(low * step for (low, _), step in zip(box, steps, strict=True))
    shape = fixed(types[read].shape)
    return move(shape, steps_of(shape), steps, out_base=base, read=read)


def _size(shape: Shape) -> int:
    n = 1
    for size in shape:
        n *= size
    return n
