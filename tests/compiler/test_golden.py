"""The graph of one small network after each pass, as it stood when it was last looked at.

A change of the compiler that was meant shows here as a diff to read. To write the files anew:

    python tests/compiler/test_golden.py
"""

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "ops")]

from compiler_kit import cluster  # noqa: E402

from rainshed.compiler.pipeline import PASSES, compile, show  # noqa: E402
from rainshed.compiler.plan import Plan  # noqa: E402
from rainshed.ops import CATALOGUE as C  # noqa: E402
from rainshed.ops.ir import Graph, scope  # noqa: E402
from rainshed.ops.reduce import mean  # noqa: E402
from rainshed.ops.source import input, variable  # noqa: E402
from rainshed.ops.text import graph_text, parse  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"


def net() -> Graph:
    x, t = input("x", (8, 6)), input("t", (8, 4))
    with scope("layer"):
        y = C["tanh"](x @ variable("layer/w", (6, 4)) + variable("layer/b", (4,)))
    return Graph({"loss": mean(C["square"](y - t))}, loss="loss")


def graphs() -> dict[str, str]:
    """After each pass; after those that make and read bfloat16, with it."""
    names = [p.__name__ for p in PASSES]
    precision = {name: "bf16" if name in ("lower_precision", "widen") else "float32" for name in names}
    shown = {n: show(net(), cluster(2), n, strategy="features", precision=precision[n]) for n in names}
    return {name: graph_text(graph) + "\n" for name, graph in shown.items()}


def plan_text(plan: Plan) -> str:
    """The instructions of every machine, without times."""
    lines = []
    for program in plan.programs:
        lines.append(f"{program.machine}: arena {program.arena_nbytes}, kept {program.kept_nbytes}")
        for i in program.instructions:
            fields = {
                f: getattr(i, f)
                for f in i.__struct_fields__
                if f not in ("attrs", "line", "seconds", "flops", "nbytes")
            }
            lines.append(f"  {type(i).__name__.lower()} " + " ".join(f"{k}={v}" for k, v in fields.items()))
    return "\n".join(lines) + "\n"


def texts() -> dict[str, str]:
    return {**graphs(), "plan": plan_text(compile(net(), cluster(2), strategy="features"))}


@pytest.mark.parametrize("name", [*(p.__name__ for p in PASSES), "plan"])
def test_the_printed_form_is_as_before(name: str) -> None:
    assert texts()[name] == (GOLDEN / f"{name}.txt").read_text()


@pytest.mark.parametrize("step", PASSES, ids=lambda p: p.__name__)
def test_the_printed_form_can_be_read(step: object) -> None:
    text = (GOLDEN / f"{step.__name__}.txt").read_text()  # type: ignore[attr-defined]
    assert graph_text(parse(text.strip(), C)) == text.strip()


if __name__ == "__main__":
    for file, content in texts().items():
        (GOLDEN / f"{file}.txt").write_text(content)
