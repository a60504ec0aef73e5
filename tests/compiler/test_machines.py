"""Clusters as data: files, links, names. What is wrong in a file is in test_bad_plans.py."""

import math
from pathlib import Path

import pytest

from rainshed.compiler.cluster_file import cluster_toml
from rainshed.compiler.machines import Cluster, Link, Machine, Unit
from rainshed.ops.errors import ClusterError

TEXT = """
[[machine]]
name = "big"
cores = 8
flops = 3.2e11
memory_bytes = 64_000_000_000
[[machine.unit]]
name = "cuda0"
flops = 1e13
bytes_per_s = 9e11
memory_bytes = 24_000_000_000

[[machine]]
name = "small"

[link]
bytes_per_s = 1.25e8
latency_s = 1e-4
[[link.between]]
machines = ["big", "small"]
bytes_per_s = 1.25e9
"""


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(TEXT)
    got = Cluster.from_toml(tmp_path / "c.toml")
    assert got.names == ("big", "small")
    assert got.machine("big").unit("cuda0") is not None and got.machine("big").unit("cuda1") is None
    assert [str(d) for d in got.machine("big").devices] == ["big/cpu", "big/cuda0"]
    assert got.link("big", "small") == got.link("small", "big") and got.link("big", "small").bytes_per_s == 1.25e9
    assert got.link("small", "small").bytes_per_s == 1.25e8
    assert Cluster.from_data(got.to_data()) == got


def test_links_of_one_direction_are_written_and_read_back(tmp_path: Path) -> None:
    links = {("a", "b"): Link(1e8), ("b", "a"): Link(1e6, 2e-3), ("c", "a"): Link(5e5)}
    got = Cluster(machines=tuple(Machine(name=n) for n in "abc"), links=links)
    assert Cluster.from_data(got.to_data()) == got
    (tmp_path / "c.toml").write_text(cluster_toml(got))
    again = Cluster.from_toml(tmp_path / "c.toml")
    assert again.link("a", "b") == Link(1e8) and again.link("b", "a") == Link(1e6, 2e-3)
    assert again.link("a", "c") == again.link("c", "a") == Link(5e5)


@pytest.mark.parametrize("ends", ['from = "a"', 'machines = ["a", "b"]\nto = "b"', 'from = "a"\nto = 3'])
def test_a_link_has_two_ends(tmp_path: Path, ends: str) -> None:
    (tmp_path / "c.toml").write_text(f'[[machine]]\nname = "a"\n[[machine]]\nname = "b"\n[[link.between]]\n{ends}\n')
    with pytest.raises(ClusterError, match=r"link.between\[0\]"):
        Cluster.from_toml(tmp_path / "c.toml")


def test_local_machines_share_the_computer() -> None:
    one, four = Cluster.local(1, cores=8), Cluster.local(4, cores=2)
    assert len(four.machines) == 4
    assert sum(m.flops for m in four.machines) == pytest.approx(one.machines[0].flops)
    assert Cluster.from_data(four.to_data()) == four
    assert Cluster.local(2, memory_bytes=1000).machines[0].memory_bytes == 1000


def test_replicas_share_the_computer_too() -> None:
    all_of_it, shared = Cluster.local(1), Cluster.local(2, replicas=3)
    assert len(shared.machines) == 2
    for what in ("cores", "flops", "memory_bytes"):
        whole, part = getattr(all_of_it.machines[0], what), getattr(shared.machines[0], what)
        assert part == pytest.approx(whole / 6, rel=1e-6), what
    with pytest.raises(ClusterError, match="at least one replica"):
        Cluster.local(1, replicas=0)


@pytest.mark.parametrize("machines", [0, -1, 1.5, True, "2", None])
def test_a_local_cluster_has_a_number_of_machines(machines: object) -> None:
    with pytest.raises(ClusterError):
        Cluster.local(machines)  # type: ignore[arg-type]


def test_a_message_takes_latency_and_its_bytes() -> None:
    assert Link(bytes_per_s=1000.0, latency_s=0.5).seconds(2000) == 2.5


def test_renamed_machines_keep_their_links() -> None:
    got = Cluster(
        machines=(Machine(name="a"), Machine(name="b")), links={("a", "b"): Link(7.0), ("b", "a"): Link(8.0)}
    ).renamed("r1.")
    assert got.names == ("r1.a", "r1.b")
    assert (got.link("r1.a", "r1.b").bytes_per_s, got.link("r1.b", "r1.a").bytes_per_s) == (7.0, 8.0)


def test_a_machine_that_is_not_there() -> None:
    with pytest.raises(ClusterError, match="no machine 'z'"):
        Cluster.local(2).machine("z")


def test_a_unit_is_checked_too() -> None:
    bad = Unit(name="cuda0", flops=-1.0, bytes_per_s=1.0, memory_bytes=1)
    with pytest.raises(ClusterError, match=r"cuda0.*flops"):
        Cluster(machines=(Machine(name="a", units=(bad,)),))


@pytest.mark.parametrize("value", [0, 0.0, -1.0, math.nan, math.inf, 10**400, True, "1", None, 1e-9])
@pytest.mark.parametrize("key", ["cores", "flops", "bytes_per_s", "message_bytes_per_s", "memory_bytes"])
def test_a_machine_that_would_never_end(key: str, value: object) -> None:
    with pytest.raises(ClusterError, match=f"machine 'a': {key} must be a (whole )?number above zero; found") as caught:
        Cluster(machines=(Machine(name="a", **{key: value}),))  # type: ignore[arg-type]
    assert caught.value.detail["allowed"]


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 10**400, True, "1", None, 1e-9])
def test_a_link_that_would_never_end(value: object) -> None:
    two = (Machine(name="a"), Machine(name="b"))
    with pytest.raises(
        ClusterError, match="link: bytes_per_s must be a number above zero, or 0 where there is no link"
    ):
        Cluster(machines=two, default_link=Link(value))  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match=r"link (a - b|b - a): bytes_per_s"):
        Cluster(machines=two, links={("a", "b"): Link(value)})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 1.5, True, 2**63, "1"])
def test_a_buffer_has_a_whole_number_of_bytes(value: object) -> None:
    with pytest.raises(ClusterError, match="buffer_bytes must be a whole number, not below 0"):
        Cluster(machines=(Machine(name="a"),), default_link=Link(1.0, 0.0, value))  # type: ignore[arg-type]


def test_a_buffer_is_written_and_read_where_there_is_one() -> None:
    two = (Machine(name="a"), Machine(name="b"))
    cluster = Cluster(machines=two, default_link=Link(1.0, 0.5, 7), links={("a", "b"): Link(2.0, 0.5)})
    data = cluster.to_data()["link"]
    assert data["buffer_bytes"] == 7 and "buffer_bytes" not in data["between"][0]
    assert Cluster.from_data(cluster.to_data()) == cluster


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, 1e9, "1"])
def test_times_are_finite(value: object) -> None:
    with pytest.raises(ClusterError, match="latency_s must be finite"):
        Cluster(machines=(Machine(name="a"),), default_link=Link(1.0, value))  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="overhead_s must be finite"):
        Cluster(machines=(Machine(name="a", overhead_s=value),))  # type: ignore[arg-type]
