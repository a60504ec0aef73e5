"""rainshed compare: two plans side by side."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rainshed.engine.commands.common import OK, positive, print_json, say
from rainshed.engine.commands.compile import terminal_width
from rainshed.engine.commands.files import add_ops, own_ops, writable, write_text
from rainshed.engine.plans import load_plan
from rainshed.engine.view import compare

HELP = "put two plans side by side: what they take, and where they differ"
EXAMPLES = """\
  rainshed compare space.json auto.json
  rainshed compare four.json eight.json -o compare.html
  rainshed compare before.json after.json --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A.json", help="a plan, as `rainshed compile -o` writes it")
    parser.add_argument("second", metavar="B.json", help="another; it may be of another cluster or graph")
    add_ops(parser)
    parser.add_argument("-o", "--output", metavar="PAGE.html", help="write one page that needs nothing else")
    parser.add_argument("--width", type=positive, help="columns of the text (those of the terminal)")
    parser.add_argument("--json", action="store_true", help="print the comparison as JSON")


def run(args: Any) -> int:
    writable([args.output], read=[args.first, args.second])
    ops = own_ops(args)
    found = compare(load_plan(args.first, ops), load_plan(args.second, ops), names_of(args.first, args.second))
    if args.output:
        write_text(args.output, found.html())
        say(f"wrote {args.output}: open it in a browser")
    if args.json:
        print_json(found.data())
    elif not args.output:
        print(found.text(args.width or terminal_width()), end="")
    return OK


def names_of(first: str, second: str) -> tuple[str, str]:
    """The files' names without folders and endings, or as much of the paths as tells them apart."""
    a, b = Path(first), Path(second)
    if a.stem != b.stem:
        return a.stem, b.stem
    if first == second:
        return f"{a.stem} (A)", f"{b.stem} (B)"
    shared = os.path.commonpath([a.resolve(), b.resolve()])
    return os.path.relpath(a.resolve(), shared), os.path.relpath(b.resolve(), shared)
