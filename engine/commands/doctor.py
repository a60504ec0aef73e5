"""rainshed doctor: is this computer fit for it?"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any, Final

from rainshed.engine.commands.common import FAILED, OK, print_json
from rainshed.engine.doctor import Finding, State, examine

HELP = "look whether this computer is fit, and what would be used of it"
EXAMPLES = """\
  rainshed doctor
  rainshed doctor --json
"""
_MARKS: Final[dict[State, str]] = {"ok": "ok", "note": "note", "wrong": "WRONG"}


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: Any) -> int:
    findings = examine()
    fit = all(finding.state != "wrong" for finding in findings)
    if args.json:
        print_json({"ok": fit, "findings": [asdict(finding) for finding in findings]})
    else:
        print(text(findings))
        print("\nThis computer is fit." if fit else "\nSomething is wrong: see above.")
    return OK if fit else FAILED


def text(findings: list[Finding]) -> str:
    width = max(len(finding.name) for finding in findings)
    rows = []
    for finding in findings:
        rows.append(f"{_MARKS[finding.state]:<5}  {finding.name:<{width}}  {finding.found}")
        if finding.do:
            rows.append(f"{'':<5}  {'':<{width}}  -> {finding.do}")
    return "\n".join(rows)
