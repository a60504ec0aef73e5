"""A cluster as the text of a TOML file that `Cluster.from_toml` reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rainshed.compiler.machines import Cluster


def cluster_toml(cluster: Cluster, comment: str = "") -> str:
    """The text; `comment` comes first, a line of it per line."""
    data = cluster.to_data()
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    for machine in data["machine"]:
        lines += ["", *_table("[[machine]]", machine, nested=("rate", "unit"))]
        if machine.get("rate"):
            lines += ["rate = [", *(f"  {_inline(row)}," for row in machine["rate"]), "]"]
        for unit in machine.get("unit", ()):
            lines += ["", *_table("[[machine.unit]]", unit)]
    lines += ["", *_table("[link]", data["link"], nested=("between",))]
    for row in data["link"].get("between", ()):
        lines += ["", *_table("[[link.between]]", row)]
    return "\n".join(lines).lstrip("\n") + "\n"


def _table(head: str, row: Mapping[str, Any], nested: tuple[str, ...] = ()) -> list[str]:
    return [head, *(f"{key} = {_text(value)}" for key, value in row.items() if key not in nested)]


def _inline(row: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {_text(value)}" for key, value in row.items()) + " }"


def _text(value: Any) -> str:
    """JSON's texts, numbers and lists of texts are TOML's; of large and small numbers, four digits are enough."""
    return f"{value:.4g}" if isinstance(value, float) and value and not 1e-3 <= abs(value) < 1e4 else json.dumps(value)
