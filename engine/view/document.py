"""The frame of a page: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable

from rainshed.engine.view.markup import Child, Markup, el, void
from rainshed.engine.view.style import PAGE_STYLE, SCRIPT


def document(title: str, body: Child, machines: Iterable[str]) -> str:
    """The page. The names of `machines` are for its script, which tells them where a strip of cells is pointed at."""
    head = el(
        "head",
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width,initial-scale=1"),
        el("title", title),
        el("style", Markup(PAGE_STYLE)),
    )
    names = json.dumps(list(machines), ensure_ascii=False)
    main = el("main", body, class_="rs", data_machines=names)
    page = el("html", head, el("body", main, el("script", Markup(SCRIPT))), lang="en")
    return f"<!doctype html>\n{page}\n"


def part(title: str, lead: str, *content: Child) -> Markup:
    """A section under a heading; `lead` says what it shows."""
    about = el("p", lead, class_="rs-soft rs-lead") if lead else None
    return el("section", el("h2", title), about, *content, class_="rs-part")
