"""Numbers as people read them, and colours for machines."""

from __future__ import annotations

import math

_MAX_PALETTE = 8
_HUES = (255, 62, 158, 18, 300, 100, 205, 345)


def scaled(amount: float, unit: str) -> str:
    """Three significant digits with an SI prefix: 1234567, "B" -> "1.23 MB"."""
    if not math.isfinite(amount):
        return f"{amount} {unit}"
    size = abs(amount)
    if size < 999.5:
        digits = 0 if size >= 99.5 or float(size).is_integer() else (1 if size >= 9.95 else 2)
        return f"{amount:.{digits}f} {unit}"
    prefix = "k"
    amount /= 1000
    for larger in "MGTPE":
        if abs(amount) < 999.5:
            break
        amount, prefix = amount / 1000, larger
    digits = 0 if abs(amount) >= 99.5 else (1 if abs(amount) >= 9.95 else 2)
    return f"{amount:.{digits}f} {prefix}{unit}"


def bytes_text(nbytes: float) -> str:
    return scaled(nbytes, "B")


def flops_text(flops: float) -> str:
    return scaled(flops, "flop")


def seconds_text(seconds: float) -> str:
    if not math.isfinite(seconds) or not seconds:
        return f"{seconds:.0f} s"
    for limit, factor, unit in ((0.9995e-3, 1e6, "µs"), (0.9995, 1e3, "ms")):
        if abs(seconds) < limit:
            return scaled(seconds * factor, unit)
    return scaled(seconds, "s") if seconds < 999.5 else f"{seconds:,.0f} s"


def count_text(count: float) -> str:
    return scaled(count, "").strip()


def percent_text(share: float) -> str:
    return "<1 %" if 0 < share < 0.005 else f"{share * 100:.0f} %"


def change_text(ratio: float) -> str:
    """By how much something is other than before: "+0.4 %", "-37 %", from threefold on "x 3.67"."""
    if ratio >= 3:
        return f"x {ratio_text(ratio)}"
    percent = 100 * (ratio - 1)
    if -99.95 < percent < -98.95:
        return f"{percent:.1f} %"
    return f"{percent:+.0f} %" if abs(percent) >= 9.95 else f"{percent:+.1f} %"


def ratio_text(ratio: float) -> str:
    """1.04, 12.3, 140: three digits, as a factor."""
    return f"{ratio:.2f}" if abs(ratio) < 9.95 else f"{ratio:,.1f}" if abs(ratio) < 99.5 else f"{ratio:,.0f}"


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def shortened(text: str, length: int) -> str:
    """The text, its middle left out where it is longer than `length` characters."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def cut(text: str, length: int) -> str:
    """The text, its end left out where it is longer than `length` characters."""
    return text if len(text) <= length else f"{text[: max(0, length - 1)].rstrip(' ·')}…"


def colours(count: int) -> tuple[str, ...]:
    """A colour for each machine, told apart on light and dark ground alike.

    Up to 8 far apart; for more, hues go round the wheel in order, so that neighbours in the cluster look akin,
    while their lightness alternates.
    """
    if count <= _MAX_PALETTE:
        return tuple(_oklch(0.68, 0.115, hue) for hue in _HUES[:count])
    return tuple(_oklch((0.74, 0.60, 0.67)[i % 3], 0.11, 255 + 345 * i / count) for i in range(count))


def _oklch(lightness: float, chroma: float, hue: float) -> str:
    """#rrggbb of a colour in OKLCh, clipped to sRGB. Source: Ottosson 2020, "A perceptual color space"."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _gamma(c)):02x}" for c in linear)


def _gamma(c: float) -> float:
    c = min(1.0, max(0.0, c))
    return 12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055


def printable(text: str, *, lines: bool = False) -> str:
    """The text without control characters, so that a name cannot steer a terminal. With `lines`, line ends stay."""
    return "".join(c if c.isprintable() or (lines and c == "\n") else "\N{REPLACEMENT CHARACTER}" for c in text)
