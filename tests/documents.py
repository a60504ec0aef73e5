"""Documents whose programs are run: the blocks of one document are one program, and what it prints stands below them.

    python tests/documents.py docs/tour.md      writes what is printed now into the document

A ```python block is run after those before it. A ```text block that follows one holds what it prints, to the letter.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

_BLOCK = re.compile(r"^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text, kind):
    """The bodies of the fenced blocks of one kind."""
    return [match["body"] for match in _BLOCK.finditer(text) if match["kind"] == kind]


def rerun(text, name="document.py"):
    """The document with every output as it is now; lines of errors count from the document's first line."""
    space = {"__name__": "document"}
    written, end, printed = [], 0, None
    for match in _BLOCK.finditer(text):
        written.append(text[end : match.start()])
        block = match[0]
        if match["kind"] == "python":
            printed = io.StringIO()
            line = "".join(written).count("\n") + 1
            code = compile("\n" * line + match["body"], name, "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, space)
        elif match["kind"] == "text" and printed is not None:
            block, printed = f"```text\n{printed.getvalue()}```", None
        written.append(block)
        end = match.end()
    return "".join([*written, text[end:]])


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.write_text(rerun(file.read_text(), file.with_suffix(".py").name))
