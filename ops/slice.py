"""slice: every step-th element of each axis, forwards or backwards; and unslice, its gradient: them among zeros."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import Any

import numpy as np

from rainshed.ops.access import Access, Axis, Interval, Reach
from rainshed.ops.cuda import Launches, fill, move, steps_of
from rainshed.ops.errors import ShapeError
from rainshed.ops.ir import Attrs, Node
from rainshed.ops.op import MOVED, REQUIRED, Cost, Op, Tile, Types, op
from rainshed.ops.types import Batch, Dim, Shape, TensorType, Type, fixed, shape_of

# One axis: the elements of range(start, stop, step). On the batch axis start and stop are 0, B, 2B, ...; the step is 1.
Cut = tuple[Dim, Dim, int]
NOTHING: Cut = (0, 0, 1)


def clean_cut(op: str, size: Dim, start: Any, stop: Any, step: Any) -> Cut:
    """The one canonical form of a cut: `stop` next to the last element, step 1 where there is one element only."""
    if isinstance(size, Batch):
        low, high = (d.times if isinstance(d, Batch) else 0 if d == 0 else None for d in (start, stop))
        if step != 1 or low is None or high is None or not 0 <= low < high <= size.times:
            raise ShapeError(
                f"{op}: the batch axis {size} can only be taken whole, found {start}:{stop}:{step}",
                hint="bind the batch first: graph.bind(batch=...)",
            )
        return start, stop, 1
    for value in (start, stop, step):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise ShapeError(f"{op}: start, stop and step are whole numbers; found {value!r}")
    if step == 0:
        raise ShapeError(f"{op}: a step must not be 0")
    taken = range(int(start), int(stop), int(step))
    if not taken:
        return NOTHING
    if not (0 <= taken[0] < size and 0 <= taken[-1] < size):
        raise ShapeError(f"{op}: {start}:{stop}:{step} leaves the axis, which has size {size}")
    if len(taken) == 1:
        return taken[0], taken[0] + 1, 1
    return taken[0], taken[-1] + (1 if step > 0 else -1), int(step)


def count_of(cut: Cut) -> Dim:
    """How many elements a canonical cut takes."""
    start, stop, step = cut
    if isinstance(stop, Batch):
        return Batch(stop.times - (start.times if isinstance(start, Batch) else 0))
    assert isinstance(start, int)
    return len(range(start, stop, step))


def _clean_cuts(op: str, shape: Shape, attrs: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    start, stop = attrs["start"], attrs["stop"]
    step = (1,) * len(shape) if attrs["step"] is None else attrs["step"]
    for name, given in (("start", start), ("stop", stop), ("step", step)):
        if not isinstance(given, (tuple, list)) or len(given) != len(shape):
            raise ShapeError(f"{op}: {name} must hold one number per axis, here {len(shape)}; found {given!r}")
    found = [clean_cut(op, *axis) for axis in zip(shape, start, stop, step, strict=True)]
    return {name: tuple(cut[i] for cut in found) for i, name in enumerate(("start", "stop", "step"))}


def _cuts(attrs: Attrs) -> list[Cut]:
    return list(zip(attrs["start"], attrs["stop"], attrs["step"], strict=True))


def _fixed_cuts(attrs: Attrs) -> list[tuple[int, int, int]]:
    return list(zip(fixed(attrs["start"]), fixed(attrs["stop"]), attrs["step"], strict=True))


def _key(start: Shape, stop: Shape, step: tuple[int, ...]) -> tuple[builtins.slice, ...]:
    """NumPy's form: a cut that runs backwards past index 0 has no stop there."""
    return tuple(
        builtins.slice(a, None if c < 0 and b == -1 else b, c)
        for a, b, c in zip(fixed(start), fixed(stop), step, strict=True)
    )


def view_of(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    """What a slice takes and an unslice fills, where it lies in x."""
    return x[_key(attrs["start"], attrs["stop"], attrs["step"])]


def _columns(cuts: list[tuple[int, int, int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(cut[i] for cut in cuts) for i, name in enumerate(("start", "stop", "step"))}


# -- slice ------------------------------------------------------------------------------------------------------------
def _clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    return _clean_cuts("slice", types[0].shape, attrs)


def _infer(types: Types, attrs: Attrs) -> Type:
    return TensorType(types[0].dtype, tuple(count_of(cut) for cut in _cuts(attrs)))


def _access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    shape = fixed(output.shape)
    return Access(
        axes=tuple(Axis(f"b{i}", size) for i, size in enumerate(shape)),
        inputs=(tuple(Reach(i, scale=c, low=a, high=a) for i, (a, _, c) in enumerate(_fixed_cuts(attrs))),),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _tile(tile: Tile) -> Mapping[str, Any]:
    """The same elements, counted from the lower corner of the tile's own region of x."""

    def one(cut: tuple[int, int, int], box: Interval, region: Interval) -> tuple[int, int, int]:
        (start, _, step), (first, last) = cut, box
        if first >= last:
            return 0, 0, 1
        start += step * first - region[0]
        return start, start + step * (last - first), step

    return _columns([one(*axis) for axis in zip(_fixed_cuts(tile.attrs), tile.box, tile.regions[0], strict=True)])


def _grad(node: Node, dy: Node) -> tuple[Node | None, ...]:
    return (unslice(dy, shape=node.inputs[0].shape, **node.attrs),)


def _cpu(x: np.ndarray, out: np.ndarray, *, start: Shape, stop: Shape, step: tuple[int, ...]) -> None:
    out[...] = x[_key(start, stop, step)]


def _walk(shape: Shape, attrs: Attrs) -> tuple[int, tuple[int, ...]]:
    """Where in memory the first element of the slice of a value of this shape lies, and the steps along its axes."""
    steps, cuts = steps_of(fixed(shape)), _fixed_cuts(attrs)
    base = sum(cut[0] * step for cut, step in zip(cuts, steps, strict=True))
    return base, tuple(cut[2] * step for cut, step in zip(cuts, steps, strict=True))


def _cuda(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    base, steps = _walk(types[0].shape, attrs)
    return move(fixed(output.shape), steps, steps_of(fixed(output.shape)), x_base=base)


slice_op: Op = op(
    name="slice",
    kinds=MOVED,
    work="layout",
    arity=1,
    attrs={"start": REQUIRED, "stop": REQUIRED, "step": None},
    clean=_clean,
    infer=_infer,
    access=_access,
    tile=_tile,
    grad=_grad,
    cost=lambda types, output, attrs: Cost(0, 2 * output.nbytes),
    cpu=_cpu,
    cuda=_cuda,
    doc="Along each axis the elements range(start, stop, step) of x; a step may be negative.",
)


# -- unslice ----------------------------------------------------------------------------------------------------------
def _clean_back(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    shape = shape_of("unslice", attrs["shape"])
    return {"shape": shape, **_clean_cuts("unslice", shape, attrs)}


def _infer_back(types: Types, attrs: Attrs) -> Type:
    (dy,) = types
    wanted = TensorType(dy.dtype, tuple(count_of(cut) for cut in _cuts(attrs)))
    if dy != wanted:
        raise ShapeError(f"unslice: the slice is {wanted}, found {dy}")
    return TensorType(dy.dtype, attrs["shape"])


def _access_back(types: Types, output: TensorType, attrs: Attrs) -> Access:
    """Element j of the result comes from element (j - start) / step of dy, if that is whole and there."""

    def reach(i: int, cut: tuple[int, int, int]) -> Reach:
        start, _, step = cut
        if step > 0:
            return Reach(i, low=step - 1 - start, high=-start, per=step)
        return Reach(i, scale=-1, low=start - step - 1, high=start, per=-step)

    shape = fixed(output.shape)
    return Access(
        axes=tuple(Axis(f"b{i}", size) for i, size in enumerate(shape)),
        inputs=(tuple(reach(i, cut) for i, cut in enumerate(_fixed_cuts(attrs))),),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _tile_back(tile: Tile) -> Mapping[str, Any]:
    def one(cut: tuple[int, int, int], box: Interval, region: Interval) -> tuple[int, int, int]:
        (start, _, step), (first, last) = cut, region
        if first >= last:
            return 0, 0, 1
        start += step * first - box[0]
        return start, start + step * (last - first), step

    cuts = [one(*axis) for axis in zip(_fixed_cuts(tile.attrs), tile.box, tile.regions[0], strict=True)]
    return {"shape": tuple(high - low for low, high in tile.box), **_columns(cuts)}


def _grad_back(node: Node, dy: Node) -> tuple[Node | None, ...]:
    return (slice_op(dy, **{name: node.attrs[name] for name in ("start", "stop", "step")}),)


def _cpu_back(
    dy: np.ndarray, out: np.ndarray, *, shape: Shape, start: Shape, stop: Shape, step: tuple[int, ...]
) -> None:
    out[...] = 0
    out[_key(start, stop, step)] = dy


def _cuda_back(types: Types, output: TensorType, attrs: Attrs) -> Launches:
    base, steps = _walk(output.shape, attrs)
    dy = fixed(types[0].shape)
    return fill(output.size, 0) + move(dy, steps_of(dy), steps, out_base=base)


unslice: Op = op(
    name="unslice",
    kinds=MOVED,
    work="layout",
    arity=1,
    attrs={"shape": REQUIRED, "start": REQUIRED, "stop": REQUIRED, "step": None},
    clean=_clean_back,
    infer=_infer_back,
    access=_access_back,
    tile=_tile_back,
    grad=_grad_back,
    cost=lambda types, output, attrs: Cost(0),
    cpu=_cpu_back,
    cuda=_cuda_back,
    doc="Zeros of `shape`, with dy where the slice had taken its elements from: the gradient of slice.",
)


def take_range(x: Node, axis: int, start: Dim, stop: Dim) -> Node:
    """x[start:stop] along one axis, the others whole."""
    starts: list[Dim] = [0] * x.ndim
    stops: list[Dim] = list(x.shape)
    starts[axis], stops[axis] = start, stop
    return slice_op(x, start=tuple(starts), stop=tuple(stops))
