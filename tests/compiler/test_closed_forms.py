"""Whole plans against closed forms: recurrent layers cut between layers and by units, data parallel, pipelines; per tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from compiler_kit import laid_out, sends

import rainshed as rs
from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.partition.search import Search
from rainshed.compiler.partition.strategy import along_features
from rainshed.compiler.pipeline import SHARED, compile, run_passes
from rainshed.compiler.plan import ARENA, FED, Plan, Program, Recv, Run, Send, Value
from rainshed.compiler.setting import Setting
from rainshed.compiler.timing import step_seconds
from rainshed.ops.ir import Graph, Node

BYTES = 4  # of one element


def machines(count: int) -> Cluster:
    each = tuple(Machine(name=f"m{i}", flops=1e9) for i in range(count))
    return Cluster(machines=each, default_link=Link(1e8, 1e-5))


def free_links(count: int) -> Cluster:
    """Equal machines that only take time to compute: sending, receiving, and calling a kernel cost nothing."""
    free = {"bytes_per_s": 1e36, "overhead_s": 0.0, "message_s": 0.0, "message_bytes_per_s": 1e36}
    each = tuple(Machine(name=f"m{i}", flops=1e9, **free) for i in range(count))
    return Cluster(machines=each, default_link=Link(1e36, 0.0))


def crossing(plan: Plan) -> Counter[tuple[str, str, str]]:
    """Bytes by (from, to, reason)."""
    found: Counter[tuple[str, str, str]] = Counter()
    for t in plan.transfers:
        found[t.source, t.to, t.reason] += t.nbytes
    return found


def crossing_elements(graph: Graph, there: Cluster, start: Callable[[Search, Node], int]) -> Counter[str]:
    """Elements that cross, by the value they belong to, with the layouts of this start; variables where they are read."""
    graph = run_passes(graph, Setting(cluster=there), SHARED)
    search = Search(graph, there)
    search.start(start)
    layouts = {node: search.facts[node].kind.options[i].layout for node, i in search.chosen.items()}
    found: Counter[str] = Counter()
    for node in sends(laid_out(graph, layouts, len(there.machines))):
        found[node.inputs[0].origin.of] += node.tensor_type.size
    return found


# -- recurrent layers ------------------------------------------------------------------------------------------------
def stacked_lstm(batch: int, steps: int, units: int, layers: int) -> Graph:
    x = rs.input("x", (batch, steps, units))
    return rs.graph(loss=rs.sum(rs.layers.lstm(x, units, layers=layers, return_sequences=True)))


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("steps", [1, 5])
def test_lstm_layers_on_machines_of_their_own(layers: int, steps: int) -> None:
    """T B H elements over each border forwards, and as many backwards; a message for every time step."""
    batch, units = 4, 8
    pins = {f"lstm/{i}": f"m{i}" for i in range(layers)}
    plan = compile(stacked_lstm(batch, steps, units, layers), machines(layers), strategy="exact", place=pins)
    each = BYTES * steps * batch * units
    borders = [(f"m{i}", f"m{i + 1}") for i in range(layers - 1)]
    forward = {(a, b, "activation"): each for a, b in borders}
    assert crossing(plan) == forward | {(b, a, "gradient"): each for a, b in borders}
    assert plan.prediction.bytes == (layers - 1) * 2 * each
    assert plan.prediction.messages == 2 * steps * (layers - 1)
    assert {t.nbytes for t in plan.transfers} == {BYTES * batch * units}


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("steps", [2, 5])
def test_an_lstm_cut_by_units_sends_its_states_to_all(parts: int, steps: int) -> None:
    """All gates of a unit lie together, so that forwards nothing crosses but (P-1) B H elements of the state before each step."""
    batch, units = 4, 8
    graph = Graph({"y": rs.layers.lstm(rs.input("x", (batch, steps, 16)), units)})
    found = crossing_elements(graph, machines(parts), along_features)
    assert list(found.values()) == [(parts - 1) * batch * units] * (steps - 1)


def by_units(search: Search, node: Node) -> int:
    """Every op cut along the units of the layer; the gradient of a state, and the loss, add up over them."""
    if node.op.name in ("product", "sum"):
        axes = search.facts[node].access.axes
        for i, one in enumerate(search.facts[node].kind.options):
            cut = [k for k, n in enumerate(one.layout.grid) if n > 1]
            if cut == [len(axes) - 1] and len(one.homes) == search.machines:
                return i
    return along_features(search, node)


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("steps", [2, 5])
def test_an_lstm_cut_by_units_sends_states_forwards_and_sums_of_their_gradients_backwards(
    parts: int, steps: int
) -> None:
    """2 (P-1) B H elements for each state but the last: all gates of a unit are added up before their gradient is sent."""
    batch, units = 16, 32
    y = rs.layers.lstm(rs.input("x", (batch, steps, 16)), units)
    found = crossing_elements(rs.graph(loss=rs.sum(y)), machines(parts), by_units)
    assert found.pop("sum") == parts - 1  # the loss
    assert sorted(found.values()) == [(parts - 1) * batch * units] * 2 * (steps - 1)


# -- data parallel -----------------------------------------------------------------------------------------------------
def over_examples(batch: int) -> Callable[[Search, Node], int]:
    """Every op cut along the axis of this size, whether its parts are joined or added."""

    def start(search: Search, node: Node) -> int:
        axes = search.facts[node].access.axes
        for i, one in enumerate(search.facts[node].kind.options):
            cut = [axis.size for axis, parts in zip(axes, one.layout.grid, strict=True) if parts > 1]
            if cut == [batch] and len(one.homes) == search.machines:
                return i
        return 0

    return start


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_data_parallel_moves_weights_and_their_gradients(parts: int) -> None:
    """(P-1) n_in n_out elements of each layer's weights, as many of the partial sums of their gradient, and nothing else."""
    batch, units = 32, (64, 128, 16)
    h = rs.input("x", (batch, units[0]))
    for n in units[1:]:
        h = rs.layers.dense(h, n, bias=False)
    found = crossing_elements(rs.graph(loss=rs.sum(rs.square(h))), machines(parts), over_examples(batch))
    first, second = ((parts - 1) * a * b for a, b in pairwise(units))
    weights = {"dense/w": first, "dense_1/w": second}
    assert found == {**weights, "dense/matmul_tn'": first, "dense_1/matmul_tn'": second, "sum": parts - 1}


def test_data_parallel_is_found_where_the_batch_is_large() -> None:
    """Above a batch of about n examples it moves least; no pin and no strategy is given."""
    parts, n = 4, 256
    h = rs.input("x", (8192, n))
    for _ in range(3):
        h = rs.layers.dense(h, n, bias=False, activation=rs.tanh)
    each = tuple(Machine(name=f"m{i}") for i in range(parts))
    plan = compile(rs.graph(loss=rs.mean(rs.square(h))), Cluster(machines=each, default_link=Link(1.25e8, 1e-4)))
    assert plan.prediction.bytes == BYTES * (2 * (parts - 1) * 3 * n * n + parts - 1)


# -- forwards and backwards ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("strategy", ["exact", "auto"])
def test_gradients_come_back_as_their_values_went(layers: int, strategy: str) -> None:
    """Dense layers of different sizes on machines of their own: per tensor B n elements there, and B n back."""
    batch, units = 16, (8, 24, 40, 56, 72)
    h = rs.input("x", (batch, units[0]))
    for n in units[1 : layers + 1]:
        h = rs.layers.dense(h, n, activation=rs.tanh)
    names = ["dense", *(f"dense_{i}" for i in range(1, layers))]
    pins = {name: f"m{i}" for i, name in enumerate(names)}
    plan = compile(rs.graph(loss=rs.mean(rs.square(h))), machines(layers), strategy=strategy, place=pins)
    sizes = {(t.of.partition("[")[0], t.source, t.to): t.nbytes for t in plan.transfers}
    forward = {
        (f"{name}/tanh", f"m{i}", f"m{i + 1}"): BYTES * batch * units[i + 1] for i, name in enumerate(names[:-1])
    }
    backward = {(f"{names[i + 1]}/matmul_nt'", f"m{i + 1}", f"m{i}"): n for i, n in enumerate(forward.values())}
    assert {key: n for key, n in sizes.items() if key[1] < key[2]} == forward
    assert {(key[0].partition(".")[0], *key[1:]): n for key, n in sizes.items() if key[1] > key[2]} == backward


# -- pipelines ---------------------------------------------------------------------------------------------------------
def stage(machine: int, last: int, times: int) -> Program:
    """A stage that takes one second for each of so many values, which come from the stage before and go to the next."""
    fed = Value(dtype="f32", shape=(4,), place=FED)
    instructions: list[Recv | Run | Send] = []
    for t in range(times):
        if machine:
            instructions.append(Recv(2 * t, times * machine + t, f"m{machine - 1}"))
        instructions.append(Run(op="exp", inputs=(2 * t,), outputs=(2 * t + 1,), seconds=1.0))
        if machine < last:
            instructions.append(Send(2 * t + 1, times * (machine + 1) + t, f"m{machine + 1}"))
    values = tuple(
        fed if not machine and i % 2 == 0 else Value(dtype="f32", shape=(4,), place=ARENA, offset=16 * i)
        for i in range(2 * times)
    )
    return Program(machine=f"m{machine}", values=values, instructions=tuple(instructions), arena_nbytes=32 * times)


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
@pytest.mark.parametrize("times", [1, 2, 7, 20])
def test_a_wavefront_takes_as_many_turns_as_it_has_values_and_stages_less_one(stages: int, times: int) -> None:
    programs = tuple(stage(m, stages - 1, times) for m in range(stages))
    assert step_seconds(programs, free_links(stages)) == times + stages - 1


def recurrent(layers: int, steps: int, batch: int = 4, units: int = 16) -> Graph:
    """Layers that do the same at every time step, and nothing of it before the layer below has; each on its own machine."""
    values = [rs.input(f"x{t}", (batch, units)) for t in range(steps)]
    for i in range(layers):
        with rs.on(f"m{i}"):
            w = rs.variable(f"w{i}", (units, units))
            state: Node = rs.input(f"state{i}", (batch, units))
            states = []
            for value in values:
                state = rs.tanh(rs.matmul(value + state, w))
                states.append(state)
            values = states
    return rs.graph(outputs={"y": values[-1]})


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("steps", [3, 8])
def test_recurrent_layers_run_as_a_wavefront(layers: int, steps: int) -> None:
    """With free links and equal stages T/(T+P-1) of the machines' time is used."""
    plan = compile(recurrent(layers, steps), free_links(layers), strategy="even", fuse=False)
    work = [m.compute_s for m in plan.prediction.machines.values()]
    assert work == pytest.approx([work[0]] * layers)
    assert sum(work) / (layers * plan.prediction.step_s) == pytest.approx(steps / (steps + layers - 1))


@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("steps", [3, 8])
def test_lstm_layers_run_as_a_wavefront(layers: int, steps: int) -> None:
    """The first time step, which has no state before it, is shorter: each layer waits a first step for the one before."""
    x = rs.input("x", (4, steps, 16))

    def plan(count: int, length: int) -> Plan:
        values = rs.layers.lstm(x[:, :length], 16, layers=count, return_sequences=True)
        place = {f"lstm/{i}": f"m{i}" for i in range(count)} if count > 1 else {"lstm": "m0"}
        return compile(rs.graph(outputs={"y": values[:, -1]}), free_links(layers), strategy="even", place=place)

    together = plan(layers, steps).prediction
    work = together.machines["m1"].compute_s
    assert plan(1, 1).prediction.step_s < work / steps
    assert together.step_s <= work * (steps + layers - 1) / steps


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize(("strategy", "slices"), [("pipeline", 4), ("fine pipeline", 8)])
def test_slices_of_the_batch_run_as_a_wavefront(stages: int, strategy: str, slices: int) -> None:
    """Equal layers, one on each machine: M/(M+P-1) of the machines' time is used with M slices."""
    h = rs.input("x", (64, 32))
    for _ in range(stages):
        h = rs.layers.dense(h, 32, bias=False)
    plan = compile(rs.graph(outputs={"y": h}), free_links(stages), strategy=strategy)
    work = [m.compute_s for m in plan.prediction.machines.values()]
    assert work == pytest.approx([work[0]] * stages)
    assert sum(work) / (stages * plan.prediction.step_s) == pytest.approx(slices / (slices + stages - 1))
