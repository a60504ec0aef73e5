"""conv2d and its gradients as lists of products for `ops/vector.py`: which rows, which columns, in which order.

Each rule takes a node's types and attributes, and gives what binds its arrays to calls, cut into pieces that may run at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from rainshed.ops import depthwise
from rainshed.ops.blas import add_product
from rainshed.ops.ir import Attrs
from rainshed.ops.op import Bind, Call, Types
from rainshed.ops.sweeps import Frame, Sweeps, at_once, cuts, divided, framed, grid, in_order, ready
from rainshed.ops.types import TensorType, fixed
from rainshed.ops.vector import BESIDE, BLOCK, Array, Products
from rainshed.ops.window import Pair, Window, lows, two_windows

CHUNK = (
    1 << 15
)  # numbers of the result at a time: they stay in the second cache while the products of a row are added up
LINE = 16  # numbers of a line of the cache
PARTS = 16  # of a product, at most
SIDE, POSITIONS = 64, 256  # the least rows or columns of one, and the least positions
FINER = 4  # pieces for each thread, at most
PIECE = 1 << 25  # operations of a piece, at least, if it is not all of a thread's


# -- windows of single positions, each for itself: plain products --------------------------------------------------------
def _is_product(weights: tuple[int, ...], attrs: Attrs) -> bool:
    """Whether BLAS, which packs both factors, is faster. That each position has its window, the caller knows."""
    kh, kw, *channels = weights
    low = lows(attrs["padding"]) if "padding" in attrs else attrs["low"]
    single = (kh, kw) == attrs["stride"] == (1, 1) and low == (0, 0) and attrs["groups"] == 1
    return single and min(channels) >= LINE


def _moved(turn: bool, operands: tuple[Array, ...], pieces: int) -> list[Call]:
    """All positions by the weights, or by their transpose."""
    a, w, out = (operand.reshape(-1, operand.shape[-1]) for operand in operands)
    return _multiplied(a, w.T if turn else w, out, POSITIONS, pieces)


def _multiplied(a: Array, b: Array, out: Array, least: int, pieces: int) -> list[Call]:
    """The result in parts, of which a piece has some: BLAS may add up in another order in another part, so the parts are the same
    whatever the number of pieces."""
    rows, columns = out.shape
    calls: list[Call] = [
        add_product(a[low:high], b, out[low:high], alpha=1.0, beta=0.0)
        if rows >= columns
        else add_product(a, b[:, low:high], out[:, low:high], alpha=1.0, beta=0.0)
        for low, high in cuts(max(rows, columns), PARTS, least)
    ]
    return [in_order(calls[first:last]) for first, last in cuts(len(calls), pieces)]


# -- what slides over images: rows are positions, columns are channels of the result ------------------------------------
def _units(batch: int, many: int, positions: int, span: Pair, sizes: Pair) -> Array:
    """Units of `many` images for positions first to last of all images; sizes: of an image of a, of out."""
    rows, first, last = [], *span
    while first < last:
        unit = first // (many * positions)
        base = unit * many * positions
        low, high = first - base, min(many * positions, last - base)
        images = -(-high // positions)
        rows.append((unit * many * sizes[0], 0, unit * many * sizes[1], low, high, 0, images, 0))
        first = base + high
    return np.array(rows, np.int64).reshape(-1, 8)


@dataclass(frozen=True, slots=True)
class _Slide:
    """Windows over a frame, for one group of channels: runs of their products, rows of weights, and where results go."""

    frame: Frame
    counts: Pair
    apart: Pair  # rows and columns of the frame between neighbouring windows
    runs: Array
    length: int
    weights: Array
    columns: int
    step: int
    targets: Array  # of the positions of one image
    out_image: int  # numbers of one image of the result

    def sweeps(self, batch: int, pieces: int, step: int) -> list[Sweeps]:
        positions = self.counts[0] * self.counts[1]
        many = max(1, min(batch, BLOCK // positions))
        image = math.prod(self.frame.image)
        lying = self.frame.numbers if self.frame.copied else image
        each = range(many)
        rows, columns = ([i * by for i in range(n)] for n, by in zip(self.counts, self.apart, strict=True))
        places = grid(
            [i * lying for i in each], [i * self.frame.row for i in rows], [j * self.frame.channels[1] for j in columns]
        )
        targets = grid([i * self.out_image for i in each], self.targets)
        runs, length = divided(self.runs, self.length)
        chunk = max(step, CHUNK // max(1, self.columns) // step * step)
        found = []
        for span in cuts(batch * positions, pieces, positions if batch >= pieces else step):
            units = _units(batch, many, positions, span, (image, self.out_image))
            units[:, 5] = len(runs)
            found.append(
                Sweeps(
                    frame=self.frame,
                    images=many,
                    places=places,
                    targets=targets,
                    runs=runs,
                    length=length,
                    weights=self.weights,
                    columns=self.columns,
                    step=self.step,
                    units=units,
                    chunk=chunk,
                    at_once=at_once(length),
                )
            )
        return found


def _taps(window: Window, merges: bool) -> tuple[list[int], int]:
    """Where the taps of a window begin, and how many lie in a row from there."""
    if merges and window.dilation == 1:
        return [0], window.kernel
    return [t * window.dilation for t in range(window.kernel)], 1


def forward(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of conv2d."""
    made = ready(types, output)
    if made is None:
        return None
    (batch, *image), (kh, kw, per_group, out) = fixed(types[0].shape), fixed(types[1].shape)
    if depthwise.fits(attrs["groups"], image[2], out):
        return depthwise.plan("forward", types, output, attrs)
    whole = image[0], image[1], image[2]
    _, oh, ow, _ = fixed(output.shape)
    if _is_product((kh, kw, per_group, out), attrs) and types[0].shape[:3] == output.shape[:3]:
        return partial(_moved, False)
    windows, groups = two_windows((kh, kw), attrs, lows(attrs["padding"])), attrs["groups"]
    height, width = windows
    wanted = height.extent(oh), width.extent(ow)
    starts, joined = _taps(width, True)
    slides = []
    for group in range(groups):
        frame = framed(whole, (group * per_group, per_group), (height.low, width.low), wanted)
        own = group * (out // groups)
        slides.append(
            _Slide(
                frame=frame,
                counts=(oh, ow),
                apart=(height.stride, width.stride),
                runs=grid([p * height.dilation * frame.row for p in range(kh)], [q * per_group for q in starts]),
                length=joined * per_group,
                weights=own + np.arange(kh * kw * per_group) * out,
                columns=out // groups,
                step=1,
                targets=own + np.arange(oh * ow) * out,
                out_image=oh * ow * out,
            )
        )
    return partial(_bound, made, slides, batch)


def _bound(
    made: Products, slides: Sequence[_Slide], batch: int, operands: tuple[Array, ...], pieces: int
) -> list[Call]:
    """The pieces of all slides, piece by piece; more than there are threads, where they stay large: so that a thread that is
    held up does less."""
    a, b, out = operands
    flops = 2 * batch * sum(len(s.targets) * len(s.weights) * s.columns for s in slides)
    finer = min(FINER, flops // (PIECE * pieces)) if pieces > 1 else 1
    parts = [slide.sweeps(batch, pieces * max(1, finer), made.shape.wide) for slide in slides]
    return [
        in_order([part[i].call(made, a, b, out) for part in parts if i < len(part)])
        for i in range(max(len(part) for part in parts))
    ]


@dataclass(frozen=True, slots=True)
class _Phase:
    """Positions first, first + stride, ... of x along one axis: the taps that touch them, and how far on the window lies."""

    first: int
    stride: int
    count: int
    taps: tuple[tuple[int, int], ...]  # (how many windows on, tap), rising

    @property
    def low(self) -> int:
        return max(0, -self.taps[0][0]) if self.taps else 0

    @property
    def wanted(self) -> int:
        return self.low + self.count + (self.taps[-1][0] if self.taps else 0)


def _phases(window: Window, size: int) -> list[_Phase]:
    found = []
    for first in range(min(window.stride, size)):
        shifts = [(first + window.low - tap * window.dilation, tap) for tap in range(window.kernel)]
        taps = sorted((shift // window.stride, tap) for shift, tap in shifts if shift % window.stride == 0)
        found.append(_Phase(first, window.stride, -(-(size - first) // window.stride), tuple(taps)))
    return found


def input_gradient(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of conv2d_input_grad: for each phase of the strides, a convolution of dy with the taps that touch it."""
    made = ready(types, output)
    if made is None:
        return None
    (batch, *image), kernel = fixed(types[0].shape), fixed(types[1].shape)
    whole = image[0], image[1], image[2]
    _, h, w, channels = fixed(output.shape)
    if depthwise.fits(attrs["groups"], channels, image[2]):
        return depthwise.plan("input", types, output, attrs)
    if _is_product(kernel, attrs) and types[0].shape[:3] == output.shape[:3]:
        return partial(_moved, True)
    height, width = two_windows((kernel[0], kernel[1]), attrs, attrs["low"])
    slides = [
        _gradient_slide((rows, columns), whole, kernel, (h, w), (attrs["groups"], group))
        for rows in _phases(height, h)
        for columns in _phases(width, w)
        for group in range(attrs["groups"])
    ]
    return partial(_bound, made, slides, batch)


def _gradient_slide(
    phases: tuple[_Phase, _Phase], image: tuple[int, int, int], kernel: tuple[int, ...], size: Pair, group: Pair
) -> _Slide:
    rows, columns = phases
    _, kw, channels, out = kernel
    groups, number = group
    some, (h, w) = out // groups, size
    frame = framed(image, (number * some, some), (rows.low, columns.low), (rows.wanted, columns.wanted))
    shifts = [shift for shift, _ in columns.taps]
    joins = len(shifts) > 1 and shifts == list(range(shifts[0], shifts[0] + len(shifts)))
    begins = shifts[:1] if joins else shifts
    taps = grid([p * kw for _, p in rows.taps], [q for _, q in columns.taps])
    return _Slide(
        frame=frame,
        counts=(rows.count, columns.count),
        apart=(1, 1),
        runs=grid([(e + rows.low) * frame.row for e, _ in rows.taps], [(e + columns.low) * some for e in begins]),
        length=some * (len(shifts) if joins else 1),
        weights=grid(taps * channels * out + number * some, range(some)),
        columns=channels,
        step=out,
        targets=number * channels
        + grid(
            [(rows.first + rows.stride * i) * w * channels * groups for i in range(rows.count)],
            [(columns.first + columns.stride * j) * channels * groups for j in range(columns.count)],
        ),
        out_image=h * w * channels * groups,
    )


def weight_gradient(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of conv2d_weight_grad: rows are taps and channels of x, columns are channels of dy, positions are summed."""
    made = ready(types, output)
    if made is None:
        return None
    if depthwise.fits(attrs["groups"], fixed(types[0].shape)[3], fixed(types[1].shape)[3]):
        return depthwise.plan("weight", types, output, attrs)
    if _is_product(fixed(output.shape), attrs) and types[0].shape[:3] == types[1].shape[:3]:
        return _weighted
    return partial(_weigh, made, types, output, attrs)


def _weighted(operands: tuple[Array, ...], pieces: int) -> list[Call]:
    x, dy, out = (operand.reshape(-1, operand.shape[-1]) for operand in operands)
    return _multiplied(x.T, dy, out, SIDE, pieces)


def _weigh(
    made: Products, types: Types, output: TensorType, attrs: Attrs, operands: tuple[Array, ...], pieces: int
) -> list[Call]:
    groups = attrs["groups"]
    calls: list[list[Call]] = [[] for _ in range(pieces)]
    for group in range(groups):
        sums = _sums(types, output, attrs, group)
        parts = [(None, None)] if groups >= pieces else _parts(sums, pieces, made)
        for i, (rows, columns) in enumerate(parts, start=group if groups >= pieces else 0):
            calls[i % pieces].append(_part(sums, rows, columns).call(made, *operands))
    return [in_order(some) for some in calls if some]


def _sums(types: Types, output: TensorType, attrs: Attrs, group: int) -> Sweeps:
    """Of one group: all its rows and columns."""
    (batch, *image), (_, oh, ow, out) = fixed(types[0].shape), fixed(types[1].shape)
    kh, kw, per_group, _ = fixed(output.shape)
    height, width = two_windows((kh, kw), attrs, attrs["low"])
    wanted = height.extent(oh), width.extent(ow)
    whole = image[0], image[1], image[2]
    frame = framed(whole, (group * per_group, per_group), (height.low, width.low), wanted)
    # Positions that lie a power of two apart share places of the cache.
    frame = replace(frame, blocks=per_group > LINE and per_group % BESIDE == 0)
    many, columns = max(1, min(batch, BLOCK // (oh * ow))), out // attrs["groups"]
    lying, a_step = frame.numbers if frame.copied else math.prod(image), width.stride * frame.step
    starts = grid([i * lying for i in range(many)], [i * height.stride * frame.row for i in range(oh)])
    runs, length = divided(starts, ow, a_step)
    taps = [p * height.dilation * frame.row for p in range(kh)], [q * width.dilation * frame.step for q in range(kw)]
    first = np.arange(0, batch, many)
    units, images = np.zeros((len(first), 8), np.int64), np.minimum(many, batch - first)
    units[:, 0], units[:, 1] = first * math.prod(image), first * oh * ow * out + group * columns
    units[:, 2], units[:, 4] = group * columns, kh * kw * per_group
    units[:, 5], units[:, 6], units[:, 7] = len(runs) // many * images, images, first
    return Sweeps(
        frame=frame,
        images=many,
        places=grid(*taps, frame.apart),
        targets=np.arange(kh * kw * per_group) * out,
        runs=runs,
        length=length,
        a_step=a_step,
        weights=np.arange(many * oh * ow) * out,
        columns=columns,
        units=units,
        at_once=at_once(length),
        packs="each",
    )


def _part(sums: Sweeps, rows: Pair | None, columns: Pair | None) -> Sweeps:
    """Some of the rows or columns; None: all."""
    units = sums.units.copy()
    if rows is not None:
        units[:, 3], units[:, 4] = rows
    first, last = columns or (0, sums.columns)
    units[:, 1:3] += first
    return replace(sums, units=units, columns=last - first)


def _parts(sums: Sweeps, pieces: int, made: Products) -> list[tuple[Pair | None, Pair | None]]:
    """Rows and columns of the pieces: cut between panels where there are enough, else between rows."""
    panel = 2 * made.shape.width
    if sums.columns >= pieces * panel:
        return [(None, part) for part in cuts(sums.columns, pieces, panel)]
    return [(part, None) for part in cuts(len(sums.places), pieces, made.shape.wide)]
