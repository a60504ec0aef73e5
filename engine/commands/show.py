"""rainshed show: look at a plan, in the terminal or as a page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rainshed.engine.commands.common import OK, positive, print_json, say
from rainshed.engine.commands.compile import figures, terminal_width
from rainshed.engine.commands.files import add_plan, plan_and_ops, writable, write_text
from rainshed.engine.view import plan_html, plan_text

HELP = "show a plan in the terminal, or as a page"
EXAMPLES = """\
  rainshed show plan.json
  rainshed show plan.json -o plan.html
  rainshed show plan.json --json
"""


def add(parser: argparse.ArgumentParser) -> None:
    add_plan(parser)
    parser.add_argument("-o", "--output", metavar="PLAN.html", help="write one page that needs nothing else")
    parser.add_argument("--title", help="of the page (the plan's file name)")
    parser.add_argument("--width", type=positive, help="columns of the text (those of the terminal)")
    parser.add_argument("--json", action="store_true", help="print the plan's figures as JSON")


def run(args: Any) -> int:
    writable([args.output], read=[args.plan])
    plan, _ = plan_and_ops(args)
    if args.output:
        write_text(args.output, plan_html(plan, title=args.title or Path(args.plan).stem))
        say(f"wrote {args.output}: open it in a browser")
    if args.json:
        print_json(figures(plan))
    elif not args.output:
        print(plan_text(plan, args.width or terminal_width()), end="")
    return OK
