"""local2d and its gradients as lists of products for `ops/vector.py`: one product for each position of the result.

All images are done at once, so the weights of a position, which are most of the memory, pass through the cache once. The
gradient of the weights is written once, and cut like the weights along the rows of positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from rainshed.ops.ir import Attrs
from rainshed.ops.op import Bind, Call, Types
from rainshed.ops.sweeps import Sweeps, cuts, grid, ready
from rainshed.ops.types import TensorType, fixed
from rainshed.ops.vector import Array, Products
from rainshed.ops.window import Pair, Window, lows, padded, two_windows

Run = Callable[[Array, Array, Array], Call]


def _sides(windows: tuple[Window, Window], image: Pair, counts: Pair) -> tuple[Pair, ...]:
    """The padding around images, so that the windows cover just what there is then."""
    return tuple((w.low, w.high(n, count)) for w, n, count in zip(windows, image, counts, strict=True))


def _windows_at(windows: tuple[Window, Window], counts: Pair, columns: int, channels: int) -> Array:
    """Where the window of each position begins, in an image of so many columns."""
    height, width = windows
    rows = [i * height.stride * columns * channels for i in range(counts[0])]
    return grid(rows, [j * width.stride * channels for j in range(counts[1])])


def _units(places: tuple[Array, Array, Array], rows: Pair, runs: int, add: int = 0) -> Array:
    """One unit for each position: its places in a, in b and in out."""
    units = np.zeros((len(places[0]), 8), np.int64)
    units[:, 0], units[:, 1], units[:, 2] = places
    units[:, 3], units[:, 4], units[:, 5], units[:, 7] = (*rows, runs, add)
    return units


def _fits(made: Products, columns: int) -> str:
    """Whether columns can be read where they lie, because tiles are as wide."""
    return "never" if columns % (2 * made.shape.width) in (0, made.shape.width) else "each"


def forward(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of local2d: rows are images, columns the channels of the result."""
    made = ready(types, output)
    return None if made is None else partial(_forward, made, types[1], output, attrs)


def _forward(
    made: Products, w: TensorType, output: TensorType, attrs: Attrs, operands: tuple[Array, ...], pieces: int
) -> list[Call]:
    x, weights, result = operands
    batch, oh, ow, out = fixed(output.shape)
    kh, kw, channels = fixed(w.shape)[2:5]
    windows = two_windows((kh, kw), attrs, lows(attrs["padding"]))
    sides = _sides(windows, x.shape[1:3], (oh, ow))
    size = tuple(n + low + high for n, (low, high) in zip(x.shape[1:3], sides, strict=True))
    positions, taps = np.arange(oh * ow), kh * kw * channels
    places = (_windows_at(windows, (oh, ow), size[1], channels), positions * taps * out, positions * out)
    sweeps = Sweeps(
        places=np.arange(batch) * math.prod(size) * channels,
        targets=np.arange(batch) * oh * ow * out,
        runs=np.arange(kh) * size[1] * channels,
        length=kw * channels,
        weights=np.arange(taps) * out,
        columns=out,
        units=_units(places, (0, batch), kh),
        packs=_fits(made, out),
    )
    return [
        partial(_on_frame, sweeps.of(slice(low * ow, high * ow)).prepared(made), (x, weights, result), sides)
        for low, high in cuts(oh, pieces)
    ]


def _on_frame(run: Run, operands: tuple[Array, Array, Array], sides: tuple[Pair, ...]) -> None:
    x, b, out = operands
    run(np.ascontiguousarray(padded(x, sides)), b, out)()


def weight_gradient(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of local2d_weight_grad: rows are taps and channels of x, columns channels of dy; images are summed."""
    made = ready(types, output)
    return None if made is None else partial(_weigh, made, output, attrs)


def _weigh(
    made: Products, output: TensorType, attrs: Attrs, operands: tuple[Array, ...], pieces: int, add: int = 0
) -> list[Call]:
    x, dy, result = operands
    oh, ow, kh, kw, channels, out = fixed(output.shape)
    windows = two_windows((kh, kw), attrs, attrs["low"])
    sides = _sides(windows, x.shape[1:3], (oh, ow))
    size = tuple(n + low + high for n, (low, high) in zip(x.shape[1:3], sides, strict=True))
    positions, taps = np.arange(oh * ow), kh * kw * channels
    places = (_windows_at(windows, (oh, ow), size[1], channels), positions * out, positions * taps * out)
    sweeps = Sweeps(
        places=grid(np.arange(kh) * size[1] * channels, range(kw * channels)),
        targets=np.arange(taps) * out,
        runs=np.zeros(1, np.int64),
        length=len(x),
        a_step=math.prod(size) * channels,
        weights=np.arange(len(x)) * oh * ow * out,
        columns=out,
        units=_units(places, (0, taps), 1, add),
        packs=_fits(made, out),
    )
    return [
        partial(_on_frame, sweeps.of(slice(low * ow, high * ow)).prepared(made), (x, dy, result), sides)
        for low, high in cuts(oh, pieces)
    ]


def weight_step(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of local2d_weight_step: those of the gradient, which add to w."""
    made = ready(types, output)
    return None if made is None else partial(_step, made, output, attrs)


def _step(made: Products, output: TensorType, attrs: Attrs, operands: tuple[Array, ...], pieces: int) -> list[Call]:
    x, dy, w, result = operands
    scaled = np.empty_like(dy)
    added = _weigh(made, output, attrs, (x, scaled, result), pieces, add=1)
    alpha = np.float32(attrs["alpha"])
    return [
        partial(_move, run, (dy[:, low:high], w[low:high]), (scaled[:, low:high], result[low:high]), alpha)
        for run, (low, high) in zip(added, cuts(fixed(output.shape)[0], pieces), strict=True)
    ]


def _move(run: Call, given: tuple[Array, Array], into: tuple[Array, Array], alpha: np.float32) -> None:
    """Rows of positions: alpha * dy is made, w is put in its place if it is not there already, and the products are added."""
    np.multiply(given[0], alpha, out=into[0])
    if given[1].ctypes.data != into[1].ctypes.data:
        np.copyto(into[1], given[1])
    run()


def input_gradient(types: Types, output: TensorType, attrs: Attrs) -> Bind | None:
    """The calls of local2d_input_grad: rows are taps and channels of a window, columns are images.

    So the weights are read as they lie, in images whose last axis is the image's number.
    """
    made = ready(types, output)
    return None if made is None else partial(_input, made, types[1], attrs)


def _input(made: Products, w: TensorType, attrs: Attrs, operands: tuple[Array, ...], pieces: int) -> list[Call]:
    dy, weights, result = operands
    oh, ow, kh, kw, channels, out = fixed(w.shape)
    windows = two_windows((kh, kw), attrs, attrs["low"])
    sides = _sides(windows, result.shape[1:3], (oh, ow))
    size = tuple(n + max(0, low) + max(0, high) for n, (low, high) in zip(result.shape[1:3], sides, strict=True))
    start = (max(0, -sides[0][0]) * size[1] + max(0, -sides[1][0])) * channels
    positions, taps = np.arange(oh * ow), kh * kw * channels
    calls: list[Call] = []
    for low, high in cuts(len(dy), pieces, made.shape.width):
        columns = -(-(high - low) // made.shape.width) * made.shape.width
        at = (start + _windows_at(windows, (oh, ow), size[1], channels)) * columns
        sweeps = Sweeps(
            places=np.arange(taps) * out,
            targets=grid(np.arange(kh) * size[1] * channels, range(kw * channels)) * columns,
            runs=np.zeros(1, np.int64),
            length=out,
            weights=np.arange(out) * columns,
            columns=columns,
            units=_units((positions * taps * out, positions * out * columns, at), (0, taps), 1, add=1),
            packs=_fits(made, columns),
        )
        room = (*size, channels, columns)
        calls.append(partial(_by_image, sweeps.prepared(made), (dy[low:high], weights, result[low:high]), sides, room))
    return calls


def _by_image(run: Run, operands: tuple[Array, Array, Array], sides: tuple[Pair, ...], room: tuple[int, ...]) -> None:
    """Add into images with their padding, and keep what is inside."""
    dy, weights, out = operands
    given, found = np.zeros((*dy.shape[1:], room[-1]), np.float32), np.zeros(room, np.float32)
    given[..., : len(dy)] = np.moveaxis(dy, 0, -1)
    run(weights, given, found)()
    rows, columns = (slice(max(0, low), max(0, low) + n) for n, (low, _) in zip(out.shape[1:3], sides, strict=True))
    out[...] = np.moveaxis(found[rows, columns, :, : len(out)], -1, 0)
