"""GPUs in plans: what goes to a unit, what is copied, where variables live, and what a plan file may not say of units."""

import msgspec
import pytest
from units_kit import EAGER, GPU, MOMENTUM, cluster, copies, network, units_of

from rainshed.compiler.load import plan_from_json
from rainshed.compiler.machines import Cluster, Machine, Unit
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import KEPT, Plan, Run, Send, to_json
from rainshed.ops import CATALOGUE
from rainshed.ops.elementwise import add
from rainshed.ops.errors import ClusterError, PlanError
from rainshed.ops.ir import Graph
from rainshed.ops.source import constant, variable
from rainshed.ops.source import input as input_node


@pytest.fixture(autouse=True)
def contracts(monkeypatch):
    monkeypatch.setenv("RAINSHED_CHECK", "1")


def plan_of(graph: Graph, machines: Cluster) -> Plan:
    """The plan, which must survive being written and checked whole."""
    plan = compile(graph, machines)
    assert plan_from_json(to_json(plan), CATALOGUE) == plan
    return plan


def test_heavy_work_goes_to_the_unit():
    plan = plan_of(network(512, 512, 1024, 16), cluster())
    assert units_of(plan)["matmul"] == {"cuda0"}
    (program,) = plan.programs
    assert program.unit_arenas["cuda0"] > 0
    without = plan_of(network(512, 512, 1024, 16), cluster(unit=None))
    assert plan.prediction.step_s < without.prediction.step_s / 10


def test_light_work_does_not():
    plan = plan_of(network(4, 6, 8, 3), cluster())
    assert not copies(plan) and set().union(*units_of(plan).values()) == {"cpu"}
    assert plan.programs[0].unit_arenas == {}


def test_nothing_crosses_twice_and_weights_do_not_cross_at_all():
    plan = plan_of(network(512, 512, 1024, 16, rule=MOMENTUM), cluster())
    made = copies(plan)
    assert len(set(made)) == len(made)
    names = {name.partition("(")[0] for _, name, _, _ in made}
    assert not names & {"w", "b", "v", "w/speed", "b/speed", "v/speed"}
    (program,) = plan.programs
    lives = {v.name: program.values[v.value].unit for v in program.variables}
    assert lives["w"] == lives["v"] == lives["w/speed"] == lives["v/speed"] == "cuda0"
    inputs = [row for row in made if row[1].startswith("x")]
    assert [(row[2], row[3]) for row in inputs] == [("cpu", "cuda0")]


def test_outputs_are_on_the_host_and_updates_with_their_variable():
    plan = plan_of(network(512, 512, 1024, 16), cluster())
    (program,) = plan.programs
    assert {program.values[o.value].unit for o in program.outputs} == {"cpu"}
    assert {o.name for o in program.outputs} >= {"loss", "grad/w", "grad/v", "scores"}


def test_constants_are_put_on_the_unit_once():
    x = input_node("x", (2048, 2048))
    big = constant([[0.5] * 2048])
    plan = plan_of(Graph({"y": CATALOGUE["tanh"](x @ x + big) @ x}), cluster())
    (program,) = plan.programs
    kept = [v for v in program.values if v.place == KEPT]
    assert [v.unit for v in kept] == ["cuda0"] and program.kept_nbytes == 0
    assert [(a, b) for _, _, a, b in copies(plan)] == [("cpu", "cuda0"), ("cuda0", "cpu")]


def test_what_goes_to_another_machine_passes_through_the_hosts():
    plan = plan_of(network(256, 64, 64, 16), cluster(2, EAGER))
    made = copies(plan)
    assert len(set(made)) == len(made)
    sends = 0
    for program in plan.programs:
        for i in program.instructions:
            if isinstance(i, Send):
                sends += 1
                assert program.values[i.value].unit == "cpu"
    forced = compile(network(256, 64, 64, 16), cluster(2, EAGER), strategy="batch")
    assert plan_from_json(to_json(forced), CATALOGUE) == forced
    assert len(set(copies(forced))) == len(copies(forced))


def test_an_op_without_a_kernel_stays_on_the_host():
    x = input_node("x", (64, 64))
    y = CATALOGUE["cumulative_sum"](x @ x, axis=0) @ x
    plan = plan_of(Graph({"y": y}), cluster(unit=EAGER))
    assert units_of(plan)["cumulative_sum"] == {"cpu"} and units_of(plan)["matmul"] == {"cuda0"}
    assert [(a, b) for _, _, a, b in copies(plan)] == [
        ("cpu", "cuda0"),
        ("cuda0", "cpu"),
        ("cpu", "cuda0"),
        ("cuda0", "cpu"),
    ]


def test_an_output_that_is_a_variable_on_the_unit_is_copied():
    w = variable("w", (512, 512), init=0.5)
    x = input_node("x", (512, 512))
    plan = plan_of(Graph({"y": x @ w, "w": w}, updates={"w": add(w, x @ w)}), cluster(unit=EAGER))
    (program,) = plan.programs
    assert program.values[program.variables[0].value].unit == "cuda0"
    assert ("m0", "w((0, 512), (0, 512))", "cuda0", "cpu") in copies(plan)


def test_where_the_unit_has_too_little_memory_the_host_does_it():
    small = Unit(name="cuda0", flops=10e12, bytes_per_s=500e9, memory_bytes=2**20)
    plan = plan_of(network(512, 512, 1024, 16), cluster(unit=small))
    assert set().union(*units_of(plan).values()) == {"cpu"}


def test_units_in_the_cluster_file(tmp_path):
    file = tmp_path / "cluster.toml"
    unit = 'name = "{}"\nflops = 1e13\nbytes_per_s = 5e11\nmemory_bytes = 1000000\n'
    file.write_text('[[machine]]\nname = "a"\n[[machine.unit]]\n' + unit.format("cuda0") + "overhead_s = 1e-5\n")
    found = Cluster.from_toml(file)
    assert found.machine("a").unit("cuda0") == Unit(
        name="cuda0", flops=1e13, bytes_per_s=5e11, memory_bytes=1_000_000, overhead_s=1e-5
    )
    assert Cluster.from_data(found.to_data()) == found
    for name in ("gpu", "cpu", "cuda", "cuda0/1"):
        file.write_text('[[machine]]\nname = "a"\n[[machine.unit]]\n' + unit.format(name))
        with pytest.raises(ClusterError, match="cuda0, cuda1"):
            Cluster.from_toml(file)
    with pytest.raises(ClusterError, match="two units"):
        Cluster(machines=(Machine(name="a", units=(GPU, GPU)),))


def changed(plan: Plan, change) -> bytes:
    data = msgspec.json.decode(to_json(plan))
    change(data["programs"][0], data)
    return msgspec.json.encode(data)


def _first(program, op):
    return next(i for i in program["instructions"] if i["type"] == "run" and i["op"] == op)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda p, d: d["cluster"]["machine"][0].pop("unit"), "has no unit 'cuda0'"),
        (lambda p, d: p["unit_arenas"].update(cuda0=64), "not within the arena of 64"),
        (lambda p, d: p["unit_arenas"].update(cuda7=64), "no unit 'cuda7'"),
        (
            lambda p, d: p["values"][_first(p, "matmul")["outputs"][0]].update(unit="cpu", offset=0),
            "(has values on|arena)",
        ),
        (lambda p, d: p["values"][p["feeds"][0]["value"]].update(unit="cuda0"), "what is fed lies on the host"),
        (
            lambda p, d: p["values"][p["outputs"][0]["value"]].update(unit="cuda0", offset=0),
            "(has values on|overwrites)",
        ),
        (lambda p, d: p["values"][p["variables"][0]["value"]].update(unit="cpu"), "(kept_nbytes|has values on)"),
    ],
)
def test_wrong_units_are_refused(change, message):
    plan = compile(network(512, 512, 1024, 16), cluster())
    with pytest.raises(PlanError, match=message):
        plan_from_json(changed(plan, change), CATALOGUE)


def test_an_op_without_a_kernel_cannot_be_on_a_unit():
    x = input_node("x", (64, 64))
    plan = compile(Graph({"y": CATALOGUE["tanh"](x @ x) @ x}), cluster(unit=EAGER), fuse=False)

    def change(program, data):
        run = _first(program, "tanh")
        run["op"], run["attrs"] = "cumulative_sum", {"axis": "0"}

    assert any(isinstance(i, Run) and i.op == "tanh" for i in plan.programs[0].instructions)
    with pytest.raises(PlanError, match="cumulative_sum has no kernel for cuda0"):
        plan_from_json(changed(plan, change), CATALOGUE)
