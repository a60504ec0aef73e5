"""Documents are true: their programs run and print what stands there, and the files they name exist."""

import re
import sys
import types
from pathlib import Path

import documents
import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "ops", "compiler", "compiler/passes", "runtime", "runtime/transport", "runtime/params", "runtime/cluster", "engine",
    "tests", "examples", "benchmarks", "docs",
)  # fmt: skip
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(ROOT / folder / "README.md" for folder in FOLDERS)]
)


def test_the_tour_prints_what_it_says():
    tour = ROOT / "docs" / "tour.md"
    text = tour.read_text()
    assert documents.rerun(text, "tour.py") == text, "python tests/documents.py docs/tour.md writes what is printed now"


def test_the_program_of_the_readme_runs(capsys):
    (program,) = documents.blocks((ROOT / "README.md").read_text(), "python")
    exec(compile(program, "README.py", "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out.endswith("200 steps, loss below 0.2: True\n")


def test_the_op_of_the_guide_keeps_the_laws(monkeypatch):
    """CONTRIBUTING.md shows an op's file and its test: both are run."""
    op, test = documents.blocks((ROOT / "CONTRIBUTING.md").read_text(), "python")[:2]
    module = types.ModuleType("rainshed.ops.squared_distance")
    exec(op, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    space: dict = {}
    exec(test, space)
    cases = next(mark.args[1] for mark in space["test_squared_distance"].pytestmark)
    for case in cases:
        space["test_squared_distance"](*case)
    space["test_batches_broadcast"]()


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_says_what_it_is(folder):
    lines = (ROOT / folder / "README.md").read_text().splitlines()
    assert lines[0].startswith("# ") and len(lines) <= 40


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_a_document_names_exist(document):
    """`like/this.py`, from the root or from the document's folder; a name alone is that of a file in any folder."""
    path = ROOT / document
    prose = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    known = {file.name for folder in FOLDERS for file in (ROOT / folder).glob("**/*.*")}
    for name in re.findall(r"`([\w./-]+\.(?:py|md|toml|npz))`", prose):
        if "squared_distance" not in name:  # the guide's own example
            assert (ROOT / name).exists() or (path.parent / name).exists() or name in known, name
