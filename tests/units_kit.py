"""A small network and clusters with GPUs, for the tests of units."""

import numpy as np

from rainshed.compiler.machines import Cluster, Link, Machine, Unit
from rainshed.compiler.plan import Plan, Run
from rainshed.ops.elementwise import relu
from rainshed.ops.init import Init
from rainshed.ops.ir import Graph, Node
from rainshed.ops.reduce import mean
from rainshed.ops.softmax_cross_entropy import softmax_cross_entropy
from rainshed.ops.source import input as input_node
from rainshed.ops.source import variable
from rainshed.ops.update import UpdateRule

GPU = Unit(name="cuda0", flops=10e12, bytes_per_s=500e9, memory_bytes=2**33)
# So fast that even a tiny graph is worth it: what the simulator can run in a second goes to it whole.
EAGER = Unit(name="cuda0", flops=1e15, bytes_per_s=1e15, memory_bytes=2**33, copy_bytes_per_s=1e13, overhead_s=1e-9)


def cluster(machines: int = 1, unit: Unit | None = GPU) -> Cluster:
    units = () if unit is None else (unit,)
    link = Link(bytes_per_s=1e11, latency_s=1e-6)
    return Cluster(machines=tuple(Machine(name=f"m{i}", units=units) for i in range(machines)), default_link=link)


def _momentum(w: Node, dw: Node, slots: dict[str, Node], step: Node) -> tuple[Node, dict[str, Node]]:
    moved = slots["speed"] * 0.5 + dw
    return w - moved * 0.1, {"speed": moved}


MOMENTUM = UpdateRule("momentum", _momentum, {"speed": 0.0})


def network(batch: int, n: int, hidden: int, classes: int, *, rule: UpdateRule | None = None) -> Graph:
    """Two layers and a softmax, with their loss."""
    x, y = input_node("x", (batch, n)), input_node("y", (batch,), "int64")
    w = variable("w", (n, hidden), init=Init("normal", (0.0, 0.3)))
    b = variable("b", (hidden,), init=0.1)
    v = variable("v", (hidden, classes), init=Init("normal", (0.0, 0.3)))
    scores = relu(x @ w + b) @ v
    loss = mean(softmax_cross_entropy(scores, y))
    return Graph({"loss": loss, "scores": scores}, loss="loss", rule=rule)


def feeds_of(batch: int, n: int, classes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {"x": rng.standard_normal((batch, n)).astype(np.float32), "y": rng.integers(0, classes, batch)}


def copies(plan: Plan) -> list[tuple[str, str, str, str]]:
    """(machine, name of the value, from, to) of every copy, in order."""
    found = []
    for p in plan.programs:
        for i in p.instructions:
            if isinstance(i, Run) and i.op == "copy":
                source, target = p.values[i.inputs[0]], p.values[i.outputs[0]]
                found.append((p.machine, f"{source.of}{source.box or ''}", source.unit, target.unit))
    return found


def units_of(plan: Plan) -> dict[str, set[str]]:
    """Op -> the units on which it runs."""
    found: dict[str, set[str]] = {}
    for p in plan.programs:
        for i in p.instructions:
            if isinstance(i, Run):
                found.setdefault(i.op, set()).update(p.values[v].unit for v in i.outputs)
    return found
