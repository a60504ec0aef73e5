"""The cluster as data: machines with their rates and memory, and the links between them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rainshed.compiler import this_computer
from rainshed.ops.errors import ClusterError
from rainshed.ops.ir import Device
from rainshed.ops.op import Work
from rainshed.ops.types import number_of, whole_of

# A modest core of today; `rainshed doctor --calibrate` replaces these by what it measures.
FLOPS_PER_CORE = 40e9
MEMORY_BYTES_PER_S = 10e9
OVERHEAD_S = 5e-6
MESSAGE_S = 30e-6
MESSAGE_BYTES_PER_S = 1.5e9

# Limits of what a description may say; far from all machines, near enough that sums of them stay finite.
SLOWEST, FASTEST = 1e-3, 1e36  # of anything per second
LONGEST_S = 1e6
MOST_MEMORY = 2**62

WORKS: tuple[str, ...] = tuple(w for w in get_args(Work) if w != "other")


class _Plain:
    """A record whose numbers are Python's, also where NumPy's were given: they go into plans."""

    __slots__ = ()

    def __post_init__(self) -> None:
        names: Iterable[str] = type(self).__slots__
        for name in names:
            value = getattr(self, name)
            if isinstance(value, np.generic):
                object.__setattr__(self, name, value.item())


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit(_Plain):
    """A processor of a machine that has its own memory: a GPU. Its name is "cuda" and the number of the CUDA device."""

    name: str  # "cuda0"
    flops: float
    bytes_per_s: float  # of its memory
    memory_bytes: int
    copy_bytes_per_s: float = 10e9  # between it and the machine's memory
    overhead_s: float = 20e-6  # per launch of a kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate(_Plain):
    """How fast a machine's kernels of one kind are: `work` is a kind of work, or the name of one op, which then comes first.

    A call takes overhead_s + flops / flops_per_s + bytes of memory traffic / bytes_per_s, of all cores together.
    """

    work: str  # "product", ..., or "conv2d"
    flops_per_s: float
    bytes_per_s: float
    overhead_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(_Plain):
    """One machine. `cores` may be less than one: several test hosts can share a processor.

    host     machines of one host share its cores: those of all of them together. "": a host of its own
    rates    of kinds of work and of single ops, where they are known; `flops` and `overhead_s` are for all others
    bfloat16 whether its processor multiplies bfloat16 (AVX512_BF16); elsewhere products read float32 copies
    message  what it takes of a core to send or to receive: seconds for each message, and bytes in a second
    """

    name: str
    cores: float = 1.0
    flops: float = FLOPS_PER_CORE  # of all cores together, per second
    bytes_per_s: float = MEMORY_BYTES_PER_S
    memory_bytes: int = 8 * 2**30
    overhead_s: float = OVERHEAD_S  # per call of a kernel
    message_s: float = MESSAGE_S
    message_bytes_per_s: float = MESSAGE_BYTES_PER_S
    host: str = ""
    bfloat16: bool = False
    rates: tuple[Rate, ...] = ()
    units: tuple[Unit, ...] = ()

    @property
    def devices(self) -> tuple[Device, ...]:
        return (Device(self.name), *(Device(self.name, u.name) for u in self.units))

    def unit(self, name: str) -> Unit | None:
        return next((u for u in self.units if u.name == name), None)

    def rate(self, op: str, work: str) -> Rate | None:
        """The measured rate of an op: its own, or that of its kind of work."""
        found = None
        for rate in self.rates:
            if rate.work == op:
                return rate
            if rate.work == work:
                found = rate
        return found


@dataclass(frozen=True, slots=True)
class Link(_Plain):
    """One direction of the way between two machines. With 0 bytes_per_s there is none: these two cannot exchange anything.

    buffer_bytes  that the sender's operating system takes before they have left: their place in memory is free then
    """

    bytes_per_s: float = 1e9
    latency_s: float = 50e-6
    buffer_bytes: int = 0

    def seconds(self, nbytes: int) -> float:
        return self.latency_s + nbytes / self.bytes_per_s if self.bytes_per_s else math.inf

    def to_data(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in (_LINK if self.buffer_bytes else _LINK[:2])}


NO_LINK = Link(bytes_per_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Machines, the link that all pairs have, and the links of pairs that differ.

    links   of (from, to); a pair that is named in one direction only has this link in the other, too
    Raises  ClusterError, at construction, for a cluster that nothing could run on
    """

    machines: tuple[Machine, ...]
    default_link: Link = field(default_factory=Link)
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_types(self)
        both = {(b, a): link for (a, b), link in self.links.items()} | {**self.links}
        object.__setattr__(self, "machines", tuple(self.machines))
        object.__setattr__(self, "links", both)
        check_cluster(self)

    @classmethod
    def local(
        cls, machines: int, *, replicas: int = 1, cores: float | None = None, memory_bytes: int | None = None
    ) -> Cluster:
        """`machines` equal machines that share this computer, and share it with so many `replicas` of themselves."""
        for count, what in (
            (machines, "a cluster has at least one machine"),
            (replicas, "there is at least one replica"),
        ):
            if (whole_of(count) or 0) < 1:
                raise ClusterError(f"{what}; found {count!r}")
        sharing = machines * replicas
        share = this_computer.usable_cores() / sharing if cores is None else cores
        memory = this_computer.memory_bytes() // sharing if memory_bytes is None else memory_bytes
        flops, short = FLOPS_PER_CORE * share, this_computer.multiplies_bfloat16()
        return cls(
            machines=tuple(
                Machine(name=f"m{i}", cores=share, flops=flops, memory_bytes=memory, bfloat16=short)
                for i in range(machines)
            )
        )

    @classmethod
    def from_toml(cls, path: str | Path) -> Cluster:
        """The cluster of a TOML file: tables [[machine]], [link], and [[link.between]], of `machines`, or one way `from` and `to`.

        Raises  ClusterError with the table and key that is wrong
        """
        try:
            data = import_module("tomllib").loads(Path(path).read_text())  # few processes read such a file
        except (OSError, ValueError, RecursionError) as error:  # not UTF-8, or not TOML: both are ValueErrors
            raise ClusterError(f"cannot read the cluster file {path}: {error}") from None
        return cls.from_data(data, where=str(path))

    @classmethod
    def from_data(cls, data: Mapping[str, Any], *, where: str = "cluster") -> Cluster:
        """The cluster described by plain tables, as in TOML and in plan files."""
        _known(data, ("machine", "link"), where)
        rows = _table_list(data.get("machine", []), f"{where}: machine")
        machines = tuple(_machine(row, f"{where}: machine[{i}]") for i, row in enumerate(rows))
        table = data.get("link", {})
        if not isinstance(table, Mapping):
            raise ClusterError(f"{where}: link must be a table; found {table!r}")
        _known(table, (*_LINK, "between"), f"{where}: link")
        default = _link(table, f"{where}: link")
        links = {}
        for i, row in enumerate(_table_list(table.get("between", []), f"{where}: link.between")):
            at = f"{where}: link.between[{i}]"
            _known(row, ("machines", "from", "to", *_LINK), at)
            for pair in _pairs(row, at):
                if pair in links:
                    raise ClusterError(f"{at}: the link {pair[0]} - {pair[1]} stands there already; it is named once")
                links[pair] = _link(row, at)
        return cls(machines=machines, default_link=default, links=links)

    def to_data(self) -> dict[str, Any]:
        """Plain tables that `from_data` reads back."""
        machines = []
        for m in self.machines:
            row: dict[str, Any] = {k: getattr(m, k) for k in _MACHINE[:-4]}
            if m.host:
                row["host"] = m.host
            if m.bfloat16:
                row["bfloat16"] = True
            if m.rates:
                row["rate"] = [{k: getattr(r, k) for k in _RATE} for r in m.rates]
            if m.units:
                row["unit"] = [{k: getattr(u, k) for k in _UNIT} for u in m.units]
            machines.append(row)
        between = []
        for (a, b), x in self.links.items():
            both = x == self.links[b, a]
            if not both or a < b:
                ends = {"machines": [a, b]} if both else {"from": a, "to": b}
                between.append({**ends, **x.to_data()})
        link = self.default_link.to_data()
        return {"machine": machines, "link": {**link, "between": between} if between else link}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(m.name for m in self.machines)

    def machine(self, name: str) -> Machine:
        for m in self.machines:
            if m.name == name:
                return m
        raise ClusterError(f"there is no machine {name!r}", machines=", ".join(self.names))

    def link(self, a: str, b: str) -> Link:
        return self.links.get((a, b), self.default_link)

    def linked(self, a: str, b: str) -> bool:
        """Whether two machines can exchange values; a machine needs no link to itself."""
        return a == b or self.link(a, b).bytes_per_s > 0

    def renamed(self, prefix: str) -> Cluster:
        """The same cluster with every name prefixed: the machines of one replica among several."""
        links = {(prefix + a, prefix + b): link for (a, b), link in self.links.items()}
        return Cluster(
            machines=tuple(replace(m, name=prefix + m.name) for m in self.machines),
            default_link=self.default_link,
            links=links,
        )

    def among(self, names: Collection[str]) -> Cluster:
        """Only the machines of these names, all of which must be linked to each other."""
        links = {pair: link for pair, link in self.links.items() if pair[0] in names and pair[1] in names}
        default = self.default_link if self.default_link.bytes_per_s else Link()  # then every pair has its own
        return Cluster(machines=tuple(m for m in self.machines if m.name in names), default_link=default, links=links)


_LINK = ("bytes_per_s", "latency_s", "buffer_bytes")
_UNIT = ("name", "flops", "bytes_per_s", "memory_bytes", "copy_bytes_per_s", "overhead_s")
_UNIT_NEEDS = _UNIT[:4]
_RATE = ("work", "flops_per_s", "bytes_per_s", "overhead_s")
_MACHINE = (
    "name", "cores", "flops", "bytes_per_s", "memory_bytes", "overhead_s", "message_s", "message_bytes_per_s", "host",
    "bfloat16", "rates", "units",
)  # fmt: skip


def check_types(cluster: Cluster) -> None:
    """What a program can get wrong and a file cannot."""
    if not isinstance(cluster.machines, (list, tuple)):
        raise ClusterError(f"machines must be a tuple of Machine; found {cluster.machines!r}")
    for m in cluster.machines:
        if not isinstance(m, Machine):
            raise ClusterError(f"machines must be a tuple of Machine; found {m!r} in it")
        if not isinstance(m.name, str):
            raise ClusterError(f"a machine's name is a word without spaces and '/'; found {m.name!r}")
    if not isinstance(cluster.links, Mapping):
        raise ClusterError(f"links must map two names to a Link; found {cluster.links!r}")
    for pair, link in [*cluster.links.items(), (("", ""), cluster.default_link)]:
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise ClusterError(f"links must map two names to a Link; found {pair!r}")
        if not isinstance(link, Link):
            raise ClusterError(f"a link must be a Link(bytes_per_s, latency_s); found {link!r}")


def check_cluster(cluster: Cluster) -> None:
    if not cluster.machines:
        raise ClusterError("a cluster has at least one machine", hint="[[machine]] tables, or Cluster.local(n)")
    seen: set[str] = set()
    for m in cluster.machines:
        if not m.name or "/" in m.name or m.name.strip() != m.name or any(c.isspace() for c in m.name):
            raise ClusterError(f"a machine's name is a word without spaces and '/'; found {m.name!r}")
        if m.name in seen:
            raise ClusterError(f"two machines have the name {m.name!r}")
        seen.add(m.name)
        for key in ("cores", "flops", "bytes_per_s", "message_bytes_per_s"):
            _positive(getattr(m, key), f"machine {m.name!r}: {key}")
        _memory(m.memory_bytes, f"machine {m.name!r}: memory_bytes")
        for key in ("overhead_s", "message_s"):
            _not_negative(getattr(m, key), f"machine {m.name!r}: {key}")
        if not isinstance(m.host, str):
            raise ClusterError(f"machine {m.name!r}: host must be a name; found {m.host!r}")
        if not isinstance(m.bfloat16, bool):
            raise ClusterError(f"machine {m.name!r}: bfloat16 must be true or false; found {m.bfloat16!r}")
        _check_rates(m)
        for u in m.units:
            if not isinstance(u.name, str) or not re.fullmatch(r"cuda\d{1,3}", u.name):
                raise ClusterError(f"machine {m.name!r}: a unit's name is cuda0, cuda1, ...; found {u.name!r}")
            if [other.name for other in m.units].count(u.name) > 1:
                raise ClusterError(f"machine {m.name!r}: two units have the name {u.name!r}")
            _not_negative(u.overhead_s, f"machine {m.name!r}, unit {u.name!r}: overhead_s")
            _memory(u.memory_bytes, f"machine {m.name!r}, unit {u.name!r}: memory_bytes")
            for key in ("flops", "bytes_per_s", "copy_bytes_per_s"):
                _positive(getattr(u, key), f"machine {m.name!r}, unit {u.name!r}: {key}")
    _check_link(cluster.default_link, "link")
    for pair, link in cluster.links.items():
        where = f"link {' - '.join(map(str, pair))}"
        for name in pair:
            if name not in seen:
                raise ClusterError(f"a link names {name!r}, which is not a machine", machines=", ".join(seen))
        _check_link(link, where)
        if pair[0] == pair[1]:
            raise ClusterError(f"{where}: a machine has no link to itself, and needs none")
        if not link.bytes_per_s and cluster.links[pair[1], pair[0]].bytes_per_s:
            raise ClusterError(f"{where}: bytes_per_s is 0 one way only; a connection needs both directions")


def _check_link(link: Link, where: str) -> None:
    if link.bytes_per_s != 0 or isinstance(link.bytes_per_s, bool):
        _positive(link.bytes_per_s, f"{where}: bytes_per_s", or_else=", or 0 where there is no link")
    _not_negative(link.latency_s, f"{where}: latency_s")
    nbytes = link.buffer_bytes
    if isinstance(nbytes, bool) or not isinstance(nbytes, int) or not 0 <= nbytes <= MOST_MEMORY:
        raise ClusterError(f"{where}: buffer_bytes must be a whole number, not below 0; found {nbytes!r}")


def _check_rates(m: Machine) -> None:
    works = [r.work for r in m.rates]
    for r in m.rates:
        where = f"machine {m.name!r}: rate of {r.work!r}"
        if not isinstance(r.work, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", r.work):
            raise ClusterError(f"{where}: work is a kind or an op's name", kinds=", ".join(WORKS))
        if works.count(r.work) > 1:
            raise ClusterError(f"{where}: stands there twice")
        _positive(r.flops_per_s, f"{where}: flops_per_s")
        _positive(r.bytes_per_s, f"{where}: bytes_per_s")
        _not_negative(r.overhead_s, f"{where}: overhead_s")


def _positive(value: Any, what: str, or_else: str = "") -> None:
    """What would take for ever, or no time, is refused: no prediction could be made with it."""
    if not _is_number(value) or not SLOWEST <= value <= FASTEST:
        raise ClusterError(
            f"{what} must be a number above zero{or_else}; found {value!r}", allowed=f"{SLOWEST:g} to {FASTEST:g}"
        )


def _not_negative(value: Any, what: str) -> None:
    if not _is_number(value) or not 0 <= value <= LONGEST_S:
        raise ClusterError(f"{what} must be finite and not negative; found {value!r}", allowed=f"up to {LONGEST_S:g} s")


def _is_number(value: Any) -> bool:
    return number_of(value) is not None


def _memory(value: Any, what: str) -> None:
    nbytes = whole_of(value)
    if nbytes is None or not 0 < nbytes <= MOST_MEMORY:
        raise ClusterError(f"{what} must be a whole number above zero; found {value!r}", allowed=f"up to {MOST_MEMORY}")


def _known(table: Mapping[str, Any], keys: Iterable[str], where: str) -> None:
    unknown = [k for k in table if k not in tuple(keys)]
    if unknown:
        raise ClusterError(f"{where}: unknown key {', '.join(map(repr, unknown))}", known=", ".join(keys))


def _table_list(value: Any, where: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(row, Mapping) for row in value):
        raise ClusterError(f"{where} must be a list of tables; found {value!r}")
    return list(value)


def _pairs(row: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """From which machine to which a link goes: both ways between `machines`, or one way."""
    one_way = "machines" not in row
    pair = [row.get("from"), row.get("to")] if one_way else row["machines"]
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(p, str) for p in pair):
        raise ClusterError(f"{where}: machines must be two names, or from and to one each; found {pair!r}")
    if not one_way and ("from" in row or "to" in row):
        raise ClusterError(f"{where}: machines means both ways, from and to mean one; found both")
    return [(pair[0], pair[1])] if one_way else [(pair[0], pair[1]), (pair[1], pair[0])]


def _link(row: Mapping[str, Any], where: str) -> Link:
    numbers = {k: row[k] for k in _LINK if k in row}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ClusterError(f"{where}: {key} must be a number; found {value!r}")
    return Link(**numbers)


def _machine(row: Mapping[str, Any], where: str) -> Machine:
    _known(row, (*_MACHINE[:-2], "rate", "unit"), where)
    if not isinstance(row.get("name"), str):
        raise ClusterError(f"{where}: a machine needs a name; found {row.get('name')!r}")
    units = tuple(Unit(**u) for u in _tables(row, "unit", where, _UNIT, _UNIT_NEEDS))
    rates = tuple(Rate(**r) for r in _tables(row, "rate", where, _RATE, _RATE))
    return Machine(**{k: v for k, v in row.items() if k not in ("unit", "rate")}, rates=rates, units=units)


def _tables(
    row: Mapping[str, Any], key: str, where: str, known: Iterable[str], needed: Iterable[str]
) -> list[Mapping[str, Any]]:
    """The tables of a machine under one key, each with keys that are known, and with all that are needed."""
    found = _table_list(row.get(key, []), f"{where}: {key}")
    for i, table in enumerate(found):
        _known(table, known, f"{where}: {key}[{i}]")
        missing = [k for k in needed if k not in table]
        if missing:
            raise ClusterError(f"{where}: {key}[{i}] lacks {', '.join(missing)}")
    return found
