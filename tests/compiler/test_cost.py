"""Costs: measured rates, and what is there without them; cluster files that hold them."""

from pathlib import Path

import pytest
from compiler_kit import cluster

from rainshed.compiler.cluster_file import cluster_toml
from rainshed.compiler.cost import pace, seconds
from rainshed.compiler.machines import Cluster, Link, Machine, Rate, Unit
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import ClusterError
from rainshed.ops.ir import Device
from rainshed.ops.source import input

RATES = (
    Rate(work="product", flops_per_s=100.0, bytes_per_s=1000.0, overhead_s=0.5),
    Rate(work="exp", flops_per_s=10.0, bytes_per_s=1e15, overhead_s=0.25),
)


def test_every_kernel_has_a_kind_of_work() -> None:
    unknown = {name for name, op in CATALOGUE.items() if op.work == "other"}
    assert unknown == {"input", "variable", "constant", "step", "axis_size", "pick", "send", "recv"}


def test_a_measured_rate_comes_before_the_machines_own() -> None:
    machine = Machine(name="m0", flops=1.0, bytes_per_s=1.0, overhead_s=9.0, rates=RATES)
    assert pace(machine, CATALOGUE["matmul"]).seconds(200, 3000, calls=2) == 2 + 3 + 2 * 0.5
    assert pace(machine, CATALOGUE["exp"]).seconds(20, 40) == pytest.approx(2 + 0.25)  # its own, not that of its kind
    assert pace(machine, CATALOGUE["add"]).seconds(20, 10) == 20 + 9


def test_a_node_costs_by_its_op() -> None:
    node = CATALOGUE["matmul"](input("a", (2, 3)), input("b", (3, 4)))
    slow = Cluster(machines=(Machine(name="m0", rates=RATES),))
    assert seconds(node, slow, Device("m0")) == pytest.approx(48 / 100 + 4 * (6 + 12 + 8) / 1000 + 0.5)
    assert seconds(node, cluster(1), Device("m0")) < 1e-4


def test_a_cluster_file_holds_all_that_was_measured(tmp_path: Path) -> None:
    unit = Unit(name="cuda0", flops=1e13, bytes_per_s=9e11, memory_bytes=24_000_000_000)
    first = Machine(name="a", cores=0.5, host="h", rates=RATES, units=(unit,), message_s=2e-5)
    link = Link(bytes_per_s=1.25e7, latency_s=5e-5)
    made = Cluster(
        machines=(first, Machine(name="b", cores=0.5, host="h")),
        default_link=link,
        links={("a", "b"): Link(1e9, 1e-5), ("b", "a"): Link(1e9, 1e-5)},
    )
    path = tmp_path / "cluster.toml"
    path.write_text(cluster_toml(made, "two lines\nof comment"))
    assert path.read_text().startswith("# two lines\n# of comment\n")
    assert Cluster.from_toml(path) == made
    assert Cluster.from_data(made.to_data()) == made


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"work": "product", "flops_per_s": 1.0, "bytes_per_s": 1.0}, "lacks overhead_s"),
        ({"work": "product", "flops_per_s": 0, "bytes_per_s": 1.0, "overhead_s": 0.0}, "above zero"),
        ({"work": "Product!", "flops_per_s": 1.0, "bytes_per_s": 1.0, "overhead_s": 0.0}, "kind or an op's name"),
        ({"work": 3, "flops_per_s": 1.0, "bytes_per_s": 1.0, "overhead_s": 0.0}, "kind or an op's name"),
        ({"work": "product", "speed": 1.0}, "unknown key 'speed'"),
    ],
)
def test_a_wrong_rate_is_refused(row: dict[str, object], said: str) -> None:
    with pytest.raises(ClusterError, match=said):
        Cluster.from_data({"machine": [{"name": "a", "rate": [row]}]})


def test_a_rate_stands_there_once() -> None:
    with pytest.raises(ClusterError, match="twice"):
        Cluster(machines=(Machine(name="a", rates=(RATES[0], RATES[0])),))
