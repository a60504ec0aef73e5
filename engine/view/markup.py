"""HTML and SVG that cannot be wrong in the dangerous way: every text is escaped unless it was built here."""

from __future__ import annotations

from html import escape


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


Child = str | int | None


def el(tag: str, /, *children: Child, **attrs: str | int | float | None) -> Markup:
    """`<tag ...>children</tag>`; plain strings are escaped, Markup is not, None is left out.

    In attribute names a trailing `_` is dropped and others become `-`: class_, data_key, stroke_width.
    """
    return Markup(f"<{tag}{_attrs(attrs)}>{join(*children)}</{tag}>")


def void(tag: str, /, **attrs: str | int | float | None) -> Markup:
    """An element without content: `<path .../>`."""
    return Markup(f"<{tag}{_attrs(attrs)}/>")


def join(*children: Child) -> Markup:
    return Markup("".join(c if isinstance(c, Markup) else escape(str(c)) for c in children if c is not None))


def _attrs(attrs: dict[str, str | int | float | None]) -> str:
    return "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_number(value))}"'
        for name, value in attrs.items()
        if value is not None
    )


def _number(value: str | int | float) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
