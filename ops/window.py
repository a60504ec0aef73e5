"""Windows that slide along one axis: how many there are, which positions each covers, and how a cut follows both.

Shared by conv2d, local2d, the pools and local response normalisation. Window number o covers the positions
`o * stride - low + t * dilation` for the taps t = 0 ... kernel - 1; positions outside the axis are padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rainshed.ops.access import Interval, Reach
from rainshed.ops.errors import ShapeError
from rainshed.ops.types import TensorType

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """The windows along one axis. A negative `low` leaves out the first positions."""

    kernel: int
    stride: int = 1
    low: int = 0
    dilation: int = 1

    @property
    def span(self) -> int:
        """How many positions lie between the ends of one window, both included."""
        return (self.kernel - 1) * self.dilation + 1

    def count(self, size: int, high: int) -> int:
        """How many windows fit on an axis of `size` positions with `high` more of padding at its end."""
        return (size + self.low + high - self.span) // self.stride + 1

    def high(self, size: int, count: int) -> int:
        """The padding with which the last of `count` windows ends at the end; negative: positions are left over."""
        return self.extent(count) - self.low - size

    def extent(self, count: int) -> int:
        """How many positions, padding included, `count` windows take together."""
        return (count - 1) * self.stride + self.span if count > 0 else 0

    def reach(self, axis: int) -> Reach:
        """How positions follow windows, which are the iteration axis number `axis`."""
        return Reach(axis, scale=self.stride, low=-self.low, high=self.span - 1 - self.low)

    def inverse(self, axis: int) -> Reach:
        """How windows follow positions, which are the iteration axis: the windows that touch a position."""
        return Reach(axis, low=self.low - self.span + self.stride, high=self.low, per=self.stride)

    def gives(self, axis: int) -> Reach:
        """How positions follow windows that add something to each position they cover; gaps between windows count too."""
        return Reach(axis, scale=self.stride, low=-self.low, high=max(self.span, self.stride) - 1 - self.low)

    def covers(self, size: int, count: int) -> bool:
        """Whether `count` windows, with the gaps between them, reach all of the `size` positions."""
        high = (count - 1) * self.stride + max(self.span, self.stride) - 1 - self.low
        return count > 0 and self.low >= 0 and high >= size - 1

    def tile(self, windows: Interval, region: Interval) -> Pair:
        """The padding (low, high) of the tile with these windows, given the part of the axis that they reach."""
        first, last = windows
        start = first * self.stride - self.low
        stop = start + self.extent(last - first)
        if region[0] >= region[1]:  # all of it is padding
            return stop - start, 0
        return region[0] - start, stop - region[1]

    def inverse_low(self, positions: Interval, windows: Interval) -> int:
        """`low` of the tile with these positions, given the windows that touch them."""
        return self.low + positions[0] - windows[0] * self.stride

    def after(self, windows: int) -> Window:
        """The same windows, counted from window number `windows`."""
        return replace(self, low=self.low - windows * self.stride)

    def taps(self, size: int, count: int) -> Iterator[tuple[int, slice, slice]]:
        """For each tap: its number, the windows for which it lies on the axis, and the positions where it lies then."""
        for tap in range(self.kernel):
            shift = tap * self.dilation - self.low
            first = max(0, -(shift // self.stride))
            last = min(count, (size - 1 - shift) // self.stride + 1)
            if first < last:
                at = first * self.stride + shift
                yield tap, slice(first, last), slice(at, at + (last - 1 - first) * self.stride + 1, self.stride)


# -- arguments --------------------------------------------------------------------------------------------------------
def clean_pair(name: str, what: str, value: Any) -> Pair:
    """An argument for both spatial axes, given once or as a pair, as a pair of ints from 1 up. Raises ShapeError."""
    given = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(given) != 2 or not all(_whole(v) and v >= 1 for v in given):
        raise ShapeError(f"{name}: {what} is a whole number from 1 up, or two of them; found {value!r}")
    return int(given[0]), int(given[1])


def clean_padding(name: str, value: Any, sizes: Pair, windows: tuple[Window, Window]) -> tuple[Pair, Pair]:
    """A padding argument in its one form ((top, bottom), (left, right)).

    "valid" is none; "same" gives as many windows as the axis has strides, the odd one at the end; an int is all four
    sides. Raises ShapeError for anything else, and where not even one window fits.
    """
    if isinstance(value, str) and value == "valid":
        sides = ((0, 0), (0, 0))
    elif isinstance(value, str) and value == "same":
        sides = (_same(windows[0], sizes[0]), _same(windows[1], sizes[1]))
    elif _whole(value):
        sides = ((int(value), int(value)),) * 2
    else:
        sides = _pairs(name, value)
    for what, size, window, (low, high) in zip(("height", "width"), sizes, windows, sides, strict=True):
        if replace(window, low=low).count(size, high) < 1:
            raise ShapeError(
                f"{name}: a window of {window.span} does not fit the {what} {size}",
                padding=f"{low} before, {high} after",
            )
    return sides


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _same(window: Window, size: int) -> Pair:
    total = max(0, window.extent(-(-size // window.stride)) - size)
    return total // 2, total - total // 2


def _pairs(name: str, value: Any) -> tuple[Pair, Pair]:
    try:
        (top, bottom), (left, right) = value
        if all(_whole(v) for v in (top, bottom, left, right)):
            return (int(top), int(bottom)), (int(left), int(right))
    except (TypeError, ValueError):
        pass
    known = '"same", "valid", a whole number, or ((top, bottom), (left, right))'
    raise ShapeError(f"{name}: padding is {known}; found {value!r}")


def image_size(name: str, x: TensorType, what: str = "x") -> Pair:
    """Height and width of images [batch, height, width, channels]. Raises ShapeError where these are not known."""
    if len(x.shape) != 4:
        raise ShapeError(f"{name}: {what} has the axes [batch, height, width, channels]; found {x}")
    _, height, width, channels = x.shape
    if not (isinstance(height, int) and isinstance(width, int) and isinstance(channels, int)):
        raise ShapeError(f"{name}: of {what} only the first axis can be the batch axis B; found {x}")
    return height, width


def two_windows(kernel: Pair, attrs: Mapping[str, Any], low: Pair = (0, 0)) -> tuple[Window, Window]:
    """The windows along height and width, from an op's attributes."""
    stride, dilation = attrs["stride"], attrs.get("dilation", (1, 1))
    return (
        Window(kernel[0], stride[0], low[0], dilation[0]),
        Window(kernel[1], stride[1], low[1], dilation[1]),
    )


def lows(padding: tuple[Pair, Pair]) -> Pair:
    return padding[0][0], padding[1][0]


# -- arrays -----------------------------------------------------------------------------------------------------------
def patches(x: np.ndarray, windows: tuple[Window, Window], counts: Pair) -> np.ndarray:
    """A view [batch, out height, out width, kernel height, kernel width, channels]: what each window sees of x.

    x is padded with zeros first, by copy, where windows reach outside it.
    """
    sides = tuple((w.low, w.high(size, n)) for w, size, n in zip(windows, x.shape[1:3], counts, strict=True))
    x = padded(x, sides)
    wanted = tuple(w.extent(n) for w, n in zip(windows, counts, strict=True))
    if x.shape[1:3] != wanted:
        raise ShapeError(f"{counts[0]} x {counts[1]} windows do not lie on an image of this size", found=x.shape)
    (h, w), (b, row, column, channel) = windows, x.strides
    return np.lib.stride_tricks.as_strided(
        x,
        (x.shape[0], *counts, h.kernel, w.kernel, x.shape[3]),
        (b, row * h.stride, column * w.stride, row * h.dilation, column * w.dilation, channel),
        writeable=False,
    )


def padded(x: np.ndarray, sides: tuple[Pair, ...]) -> np.ndarray:
    """x with zeros around its axes 1 and 2; negative widths crop. A view where nothing is added."""
    inner = tuple(
        slice(max(0, -low), max(0, n - max(0, -high))) for n, (low, high) in zip(x.shape[1:3], sides, strict=True)
    )
    x = x[:, *inner]
    if all(low <= 0 and high <= 0 for low, high in sides):
        return x
    places = tuple(slice(max(0, low), max(0, low) + n) for n, (low, _) in zip(x.shape[1:3], sides, strict=True))
    shape = tuple(n + max(0, low) + max(0, high) for n, (low, high) in zip(x.shape[1:3], sides, strict=True))
    out = np.zeros((x.shape[0], *shape, x.shape[3]), x.dtype)
    out[:, *places] = x
    return out


def add_patches(out: np.ndarray, given: np.ndarray, windows: tuple[Window, Window]) -> None:
    """The transpose of `patches`: add what each window gives to the positions of `out` that it covers."""
    height, width = windows
    for p, rows, at_rows in height.taps(out.shape[1], given.shape[1]):
        for q, columns, at_columns in width.taps(out.shape[2], given.shape[2]):
            out[:, at_rows, at_columns] += given[:, rows, columns, p, q]


PATCH_BYTES = 2**20  # patches are copied out in parts of about this size, which stay in the cache of one core


def chunks(images: int, rows: int, row_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Parts of (images, rows of windows) whose patches take about PATCH_BYTES: whole images, or some rows of one."""
    fit = max(1, PATCH_BYTES // max(1, row_bytes))
    many, step = max(1, fit // max(1, rows)), min(fit, max(1, rows))
    for image in range(0, images, many):
        for row in range(0, rows, step):
            yield slice(image, min(images, image + many)), slice(row, min(rows, row + step))
