"""Reading a plan: every number is checked before anything starts, and what is wrong is named with its place in the JSON.

An instruction is rebuilt through its op, on leaves of the types that the plan declares: so shapes, element types and attributes are
held to the same rules as in a user's graph.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from rainshed.compiler.in_place import in_place
from rainshed.compiler.load_units import check_units
from rainshed.compiler.machines import Cluster
from rainshed.compiler.plan import (
    ARENA,
    FED,
    KEPT,
    VERSION,
    Assign,
    Free,
    Output,
    Plan,
    Program,
    Recv,
    Run,
    Send,
    Transfer,
    Value,
    Variable,
)
from rainshed.compiler.simulate import check_order
from rainshed.compiler.units import HOST
from rainshed.ops.access import Box, box_shape, cover_fault
from rainshed.ops.errors import ClusterError, PlanError, RainshedError
from rainshed.ops.init import Init
from rainshed.ops.ir import Node, Origin
from rainshed.ops.op import MAX_BYTES, Op
from rainshed.ops.source import input_op
from rainshed.ops.text import parse_attr
from rainshed.ops.types import DTYPES, TensorType, TupleType, Type

MAX_FILE_BYTES = 1 << 30
_DTYPES = {d.short: d for d in DTYPES}
Results = dict[Hashable, Type]  # what an op gives for these inputs and attributes


def load_plan(path: str | Path, ops: Mapping[str, Op]) -> Plan:
    """The plan of a file, checked whole; `ops` are the ops it may name. Raises PlanError with the place that is wrong."""
    try:
        if Path(path).stat().st_size > MAX_FILE_BYTES:
            raise PlanError(f"the plan {path} is larger than {MAX_FILE_BYTES} bytes")
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # a path that no file can have is a ValueError
        raise PlanError(f"cannot read the plan {path}: {getattr(error, 'strerror', error)}") from None
    return plan_from_json(data, ops)


def plan_from_json(data: bytes, ops: Mapping[str, Op]) -> Plan:
    """The plan of these bytes, checked whole. Raises PlanError."""
    try:
        version = _VERSIONED.decode(data).version
        if version != VERSION:
            raise PlanError(
                f"this plan has version {version}; this Rainshed reads version {VERSION}", hint="compile it again"
            )
        plan = _PLAN.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"this is not a plan: {error}") from None
    check_plan(plan, ops)
    return plan


class _Versioned(msgspec.Struct):
    version: int


# Made here, and not when the first plan is read: two threads that teach msgspec a type at once end the process (msgspec 0.22).
_VERSIONED: Final = msgspec.json.Decoder(_Versioned)
_PLAN: Final = msgspec.json.Decoder(Plan)


def check_plan(plan: Plan, ops: Mapping[str, Op]) -> None:
    """Raises PlanError if the plan could not run, could not end, or is not what its own numbers say."""
    cluster = _cluster(plan)
    if [p.machine for p in plan.programs] != list(cluster.names):
        raise _wrong(
            "$.programs", f"there must be one program per machine, in the order of the cluster {cluster.names}"
        )
    transfers = _check_transfers(plan, cluster)
    sent: set[int] = set()
    received: set[int] = set()
    results: Results = {}
    for i, program in enumerate(plan.programs):
        checker = _Checker(program, f"$.programs[{i}]", ops, transfers, results)
        checker.run()
        check_units(program, f"$.programs[{i}]", cluster.machine(program.machine), ops)
        for found, seen in ((checker.sent, sent), (checker.received, received)):
            twice = found & seen
            if twice:
                raise _wrong(f"$.programs[{i}]", f"transfer {min(twice)} is used by two machines")
            seen |= found
    for key in transfers.keys() - (sent & received):
        raise _wrong(
            "$.transfers", f"transfer {key} ({transfers[key].of}) is {'not received' if key in sent else 'not sent'}"
        )
    _check_parts(plan)
    for name, p in plan.prediction.machines.items():
        if name not in cluster.names or not (math.isfinite(p.compute_s) and p.compute_s >= 0):
            raise _wrong(f"$.prediction.machines.{name}", "is not a machine of the plan, or its time is not a time")
    try:
        check_order(plan.programs)
    except PlanError as error:
        raise _wrong("$.programs", error.message) from None
    messages, nbytes = len(plan.transfers), sum(t.nbytes for t in plan.transfers)
    if (nbytes, messages) != (plan.prediction.bytes, plan.prediction.messages):
        raise _wrong("$.prediction", f"the transfers are {messages} messages of {nbytes} bytes together")


def _wrong(path: str, what: str, **detail: Any) -> PlanError:
    return PlanError(f"{path}: {what}", **detail)


def _cluster(plan: Plan) -> Cluster:
    try:
        return Cluster.from_data(plan.cluster, where="$.cluster")
    except ClusterError as error:
        raise PlanError(error.message, **error.detail) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise _wrong("$.cluster", str(error)) from None


def _check_transfers(plan: Plan, cluster: Cluster) -> dict[int, Transfer]:
    found: dict[int, Transfer] = {}
    names = {p.machine for p in plan.programs}
    for i, t in enumerate(plan.transfers):
        path = f"$.transfers[{i}]"
        if t.key in found or not 0 <= t.key < len(plan.transfers):
            raise _wrong(path, f"key {t.key} is used twice, or out of range")
        if t.source not in names or t.to not in names or t.source == t.to:
            raise _wrong(path, f"from {t.source!r} to {t.to!r} is no way between two machines of the plan")
        if not cluster.linked(t.source, t.to):
            raise _wrong(path, f"the cluster has no link from {t.source} to {t.to}")
        found[t.key] = t
    return found


class _Checker:
    """One program: walks the list and keeps what is defined, alive, and where it lies."""

    def __init__(
        self, program: Program, path: str, ops: Mapping[str, Op], transfers: Mapping[int, Transfer], results: Results
    ) -> None:
        self.program, self.path, self.ops, self.transfers = program, path, ops, transfers
        self.sent: set[int] = set()
        self.received: set[int] = set()
        self.live: set[int] = set()
        self.dead: set[int] = set()
        # unit -> (start, stop, value) of what is alive in its arena, by start
        self.occupied: dict[str, list[tuple[int, int, int]]] = {}
        self.results = results
        self.assignable = {v.value for v in program.variables}

    def run(self) -> None:
        for i, value in enumerate(self.program.values):
            self._value(i, value)
        self._leaves()
        for i, instruction in enumerate(self.program.instructions):
            path = f"{self.path}.instructions[{i}]"
            if isinstance(instruction, Run):
                self._run(instruction, path)
            elif isinstance(instruction, Send):
                self._send(instruction, path)
            elif isinstance(instruction, Recv):
                self._recv(instruction, path)
            elif isinstance(instruction, Free):
                self._free(instruction, path)
            else:
                self._assign(instruction, path)
        kept = sum(v.nbytes for v in self.program.values if v.place == KEPT and v.unit == HOST)
        if self.program.kept_nbytes != kept:
            raise _wrong(f"{self.path}.kept_nbytes", f"the values that are kept have {kept} bytes together")
        for i, output in enumerate(self.program.outputs):
            path = f"{self.path}.outputs[{i}]"
            self._read(output.value, path)
            self._box(output.box, self.program.values[output.value].shape, output.whole, path)

    def _value(self, i: int, value: Value) -> None:
        path = f"{self.path}.values[{i}]"
        if value.dtype not in _DTYPES:
            raise _wrong(path, f"there is no element type {value.dtype!r}")
        if any(n < 0 for n in value.shape) or value.nbytes > MAX_BYTES:
            raise _wrong(path, f"shape {list(value.shape)} is not one")
        if value.place not in (ARENA, KEPT, FED):
            raise _wrong(path, f"there is no place {value.place!r}")
        arena = self.program.arena_of(value.unit)
        if value.place == ARENA and not (value.offset >= 0 and value.offset + value.nbytes <= arena):
            raise _wrong(path, f"offset {value.offset} + {value.nbytes} bytes is not within the arena of {arena}")
        if self.program.arena_nbytes > MAX_BYTES:
            raise _wrong(f"{self.path}.arena_nbytes", "is more than any machine has")

    def _leaves(self) -> None:
        for i, feed in enumerate(self.program.feeds):
            path = f"{self.path}.feeds[{i}]"
            value = self._define(feed.value, FED, path)
            self._box(feed.box, value.shape, feed.whole, path)
        for i, variable in enumerate(self.program.variables):
            path = f"{self.path}.variables[{i}]"
            value = self._define(variable.value, KEPT, path)
            self._box(variable.box, value.shape, variable.whole, path)
            try:
                init = parse_attr(variable.init)
            except RainshedError as error:
                raise _wrong(f"{path}.init", error.message) from None
            if not isinstance(init, Init) or (init.values is not None and init.values.shape != value.shape):
                raise _wrong(f"{path}.init", f"is not an initial value for {variable.name!r}")
        if self.program.step_value != -1:
            value = self._define(self.program.step_value, FED, f"{self.path}.step_value")
            if (value.dtype, value.shape) != ("i64", ()):
                raise _wrong(f"{self.path}.step_value", "must be i64[]")

    def _box(self, box: Box, shape: tuple[int, ...], whole: tuple[int, ...], path: str) -> None:
        if (
            len(box) != len(shape)
            or any(len(iv) != 2 or not 0 <= iv[0] <= iv[1] for iv in box)
            or box_shape(box) != shape
        ):
            raise _wrong(path, f"box {box} does not have the shape {list(shape)} of its value")
        if len(whole) != len(box) or any(iv[1] > n for iv, n in zip(box, whole, strict=True)):
            raise _wrong(path, f"box {box} does not lie within {list(whole)}")

    def _get(self, number: int, path: str) -> Value:
        if not 0 <= number < len(self.program.values):
            raise _wrong(path, f"there is no value {number}")
        return self.program.values[number]

    def _define(self, number: int, place: str, path: str) -> Value:
        value = self._get(number, path)
        if number in self.live or number in self.dead:
            raise _wrong(path, f"value {number} is defined twice")
        if value.place != place:
            raise _wrong(path, f"value {number} lies in {value.place!r}, not {place!r}")
        self.live.add(number)
        return value

    def _write(self, number: int, path: str, run: Run | None = None) -> Value:
        """A new value by an instruction: in the arena, where nothing that is alive lies; or a variable's, in its place."""
        value = self._get(number, path)
        if run is not None and number in self.assignable:
            if not in_place(run, number):
                raise _wrong(path, f"{run.op} cannot write value {number} while it reads it")
            return self._read(number, path)
        if value.place != ARENA:
            raise _wrong(path, f"value {number} lies in {value.place!r}: instructions write to the arena")
        self._define(number, ARENA, path)
        lying = self.occupied.setdefault(value.unit, [])
        start, stop = value.offset, value.offset + value.nbytes
        if start < stop:
            at = bisect_left(lying, (start, stop, number))
            neighbours = lying[max(0, at - 1) : at + 1]  # those that are alive do not overlap: only these can
            for low, high, other in neighbours:
                if start < high and low < stop:
                    raise _wrong(path, f"value {number} overwrites value {other}, which is still read")
            lying.insert(at, (start, stop, number))
        return value

    def _read(self, number: int, path: str) -> Value:
        value = self._get(number, path)
        if number in self.dead:
            raise _wrong(path, f"value {number} is read after it was freed")
        if number not in self.live:
            raise _wrong(path, f"value {number} is read before it is there")
        return value

    def _run(self, run: Run, path: str) -> None:
        if run.op not in self.ops:
            raise _wrong(path, f"there is no op {run.op!r}", hint="an op of the user's own must be given to load_plan")
        if not math.isfinite(run.seconds) or run.seconds < 0 or run.flops < 0 or run.nbytes < 0:
            raise _wrong(path, "its cost is not one")
        op = self.ops[run.op]
        inputs = [self._read(v, path) for v in run.inputs]
        # The same question gets the same answer: tiles of one op are checked once.
        key = (run.op, tuple((v.dtype, v.shape) for v in inputs), tuple(run.attrs.items()))
        if key in self.results:
            self._results(run, self.results[key], path)
            return
        try:
            attrs = {name: parse_attr(text) for name, text in run.attrs.items()}
            leaves = tuple(_leaf(i, v) for i, v in enumerate(inputs))
            result = op.make(leaves, attrs, Origin()).type
        except RainshedError as error:
            raise _wrong(path, error.message, line=run.line or None) from None
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise _wrong(path, f"{run.op} does not take these attributes: {error}") from None
        self.results[key] = result
        self._results(run, result, path)

    def _results(self, run: Run, result: Type, path: str) -> None:
        types = result.items if isinstance(result, TupleType) else (result,)
        if len(types) != len(run.outputs):
            raise _wrong(path, f"{run.op} has {len(types)} results, not {len(run.outputs)}")
        for number, type in zip(run.outputs, types, strict=True):
            value = self._define(number, KEPT, path) if run.op == "constant" else self._write(number, path, run)
            if (type.dtype.short, type.shape) != (value.dtype, value.shape):
                raise _wrong(path, f"{run.op} gives {type}, but value {number} is {value.dtype}{list(value.shape)}")

    def _transfer(self, key: int, path: str, source: str, to: str, value: Value) -> None:
        t = self.transfers.get(key)
        if t is None or (t.source, t.to) != (source, to):
            raise _wrong(path, f"there is no transfer {key} from {source} to {to}")
        if t.nbytes != value.nbytes:
            raise _wrong(path, f"transfer {key} is {t.nbytes} bytes, but the value has {value.nbytes}")

    def _send(self, send: Send, path: str) -> None:
        self._transfer(send.key, path, self.program.machine, send.to, self._read(send.value, path))
        if send.key in self.sent:
            raise _wrong(path, f"transfer {send.key} is sent twice")
        self.sent.add(send.key)

    def _recv(self, recv: Recv, path: str) -> None:
        self._transfer(recv.key, path, recv.source, self.program.machine, self._write(recv.value, path))
        if recv.key in self.received:
            raise _wrong(path, f"transfer {recv.key} is received twice")
        self.received.add(recv.key)

    def _free(self, free: Free, path: str) -> None:
        value = self._read(free.value, path)
        if value.place != ARENA:
            raise _wrong(path, f"value {free.value} lies in {value.place!r} and is not freed")
        self.live.discard(free.value)
        self.dead.add(free.value)
        if value.nbytes:
            lying = self.occupied[value.unit]
            del lying[bisect_left(lying, (value.offset, value.offset + value.nbytes, free.value))]

    def _assign(self, assign: Assign, path: str) -> None:
        new, old = self._read(assign.value, path), self._read(assign.variable, path)
        if assign.variable not in self.assignable:
            raise _wrong(path, f"value {assign.variable} is not a variable")
        if (new.dtype, new.shape) != (old.dtype, old.shape):
            raise _wrong(path, f"a variable of {old.dtype}{list(old.shape)} cannot become {new.dtype}{list(new.shape)}")


def _leaf(i: int, value: Value) -> Node:
    type = TensorType(_DTYPES[value.dtype], value.shape)
    return input_op.make((), {"name": f"x{i}", "shape": type.shape, "dtype": type.dtype}, Origin())


def _check_parts(plan: Plan) -> None:
    """The parts of each variable and output make the whole, each element once; a gradient lies as its variable does."""
    variables: dict[str, list[Variable]] = {}
    outputs: dict[str, list[Output]] = {}
    for i, program in enumerate(plan.programs):
        for v in program.variables:
            variables.setdefault(v.name, []).append(v)
        for o in program.outputs:
            outputs.setdefault(o.name, []).append(o)
        own = {(v.name, v.box) for v in program.variables}
        known = {name for name, _ in own}
        for j, o in enumerate(program.outputs):
            name = o.name.removeprefix("grad/")
            if name != o.name and name in known and (name, o.box) not in own:
                raise _wrong(f"$.programs[{i}].outputs[{j}]", f"{o.name!r} has not the part {o.box} of its variable")
    for what, parts in (("variable", variables), ("output", outputs)):
        for name, found in parts.items():
            if len({p.whole for p in found}) > 1:
                raise _wrong("$.programs", f"the parts of {what} {name!r} differ in the shape of the whole")
            wrong = cover_fault(found[0].whole, [p.box for p in found])
            if wrong:
                raise _wrong("$.programs", f"{what} {name!r}: {wrong}")
    if plan.loss is not None and plan.loss not in outputs:
        raise _wrong("$.loss", f"{plan.loss!r} is not an output")
