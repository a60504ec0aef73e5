"""What the tests of the passes share: graphs as text in and out, clusters that are the same everywhere, bytes that cross."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent

import numpy as np
from msgspec import structs
from random_graphs import ALL_OPS

from rainshed.compiler.cost import FREE
from rainshed.compiler.layouts import Layout
from rainshed.compiler.lower import lower
from rainshed.compiler.machines import Cluster, Machine
from rainshed.compiler.partition.candidates import candidates
from rainshed.compiler.passes.insert_send_recv import insert_send_recv
from rainshed.compiler.passes.place import place
from rainshed.compiler.passes.schedule import schedule
from rainshed.compiler.passes.split import Splitter
from rainshed.compiler.pipeline import PASSES, run_passes
from rainshed.compiler.plan import VERSION, Plan
from rainshed.compiler.setting import Setting
from rainshed.compiler.simulate import simulate
from rainshed.ops.ir import Graph, Node
from rainshed.ops.text import graph_text, parse
from rainshed.ops.types import TensorType, fixed


def cluster(machines: int, **fields: float) -> Cluster:
    """Machines m0, m1, ... that do not depend on the computer that the test runs on."""
    return Cluster(machines=tuple(Machine(name=f"m{i}", **fields) for i in range(machines)))


def setting(machines: int = 1, **fields: object) -> Setting:
    return Setting(cluster=cluster(machines), **fields)  # type: ignore[arg-type]


def graph_of(lines: str) -> Graph:
    """The graph whose text has these lines between its braces."""
    return parse("graph {\n" + dedent(lines).strip("\n") + "\n}", ALL_OPS)


def lines_of(graph: Graph) -> str:
    return "\n".join(line.strip() for line in graph_text(graph).split("\n")[1:-1])


def check_pass(step: Callable[[Graph, Setting], Graph], before: str, after: str, machines: int = 1) -> None:
    """Text in, text out."""
    got = lines_of(step(graph_of(before), setting(machines)))
    assert got == dedent(after).strip(), got


def laid_out(graph: Graph, layouts: dict[Node, Layout], machines: int) -> Graph:
    """The graph cut by these layouts (a node that is not named lies whole on machine 0), placed, with sends and receives."""
    full = {
        n: layouts.get(n) or Layout((1,) * len(n.access.axes), (0,)) for n in graph.nodes() if n.op.name not in FREE
    }
    told = setting(machines)
    return insert_send_recv(place(Splitter(graph, full).run(), told), told)


def random_layouts(graph: Graph, machines: int, rng: np.random.Generator) -> dict[Node, Layout]:
    """For every node a layout of those that it could have on up to three of the machines, in any order; pins hold."""
    found: dict[Node, Layout] = {}
    for node in graph.nodes():
        if node.op.name in FREE:
            continue
        access = node.access
        own = tuple(int(m) for m in rng.permutation(machines)[: rng.integers(1, 4)])
        single = (1,) * len(access.axes)
        if node.op.name == "pick":  # a tuple does not travel
            found[node] = Layout(single, found[node.inputs[0]].homes)
        elif node.origin.pin is not None:
            found[node] = Layout(single, (int(node.origin.pin[1:]),))
        else:
            shapes = tuple(fixed(i.shape) for i in node.inputs)
            shape = fixed(node.shape) if isinstance(node.type, TensorType) else ()
            options = candidates(access, shapes, shape, (1.0,) * len(own))
            one = options[int(rng.integers(len(options)))]
            found[node] = structs.replace(one, homes=tuple(own[i] for i in one.homes))
    return found


def plan_of(graph: Graph, layouts: dict[Node, Layout], told: Setting) -> Plan:
    """The plan of a graph (after `merge_equal`) that is cut by these layouts."""
    placed = run_passes(Splitter(graph, layouts).run(), told, PASSES[PASSES.index(place) :])
    programs, transfers = lower(placed, schedule(placed, told), told)
    return Plan(
        version=VERSION,
        programs=programs,
        transfers=transfers,
        cluster=told.cluster.to_data(),
        prediction=simulate(programs, transfers, told.cluster),
        seed=told.seed,
        loss=graph.loss,
    )


def sends(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes() if n.op.name == "send"]


def sent_elements(graph: Graph) -> int:
    """How many elements cross between machines."""
    return sum(n.tensor_type.size for n in sends(graph))
