"""Plans made by hand, as large as wanted, for tests of views: a locally connected network, cut by rows of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

from rainshed.compiler.machines import Cluster
from rainshed.compiler.plan import (
    Feed,
    Free,
    Instruction,
    MachinePrediction,
    Output,
    Plan,
    Prediction,
    Program,
    Recv,
    Run,
    Send,
    Transfer,
    Value,
    Variable,
)
from rainshed.ops.access import Box, box_shape

BATCH, WIDTH, HALO, CLASSES = 32, 40, 2, 10
CHANNELS = (1, 8, 8, 8, 8)
RATE = 40e9


@dataclass
class _Machine:
    """The program of one machine while it is being written."""

    name: str
    rows: tuple[int, int]
    values: list[Value] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    feeds: list[Feed] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    scope: str = ""
    line: str = ""

    def value(self, of: str, box: Box, place: str = "arena", dtype: str = "f32") -> int:
        self.values.append(Value(dtype=dtype, shape=box_shape(box), place=place, of=of, box=box, offset=0))
        return len(self.values) - 1

    def box(self, value: int) -> Box:
        found = self.values[value].box
        assert found is not None
        return found

    def run(self, op: str, inputs: tuple[int, ...], of: str, box: Box, *, per: int = 1, backward: bool = False) -> int:
        out = self.value(of, box)
        flops = per * prod(box_shape(box))
        nbytes = self.values[out].nbytes + sum(self.values[i].nbytes for i in inputs)
        self.instructions.append(
            Run(
                op=op,
                inputs=inputs,
                outputs=(out,),
                scope=self.scope,
                line=self.line,
                backward=backward,
                flops=flops,
                nbytes=nbytes,
                seconds=flops / RATE + 5e-6,
            )
        )
        return out

    def parameter(self, name: str, box: Box, whole: tuple[int, ...]) -> int:
        value = self.value(name, box, "kept")
        self.variables.append(Variable(name=name, value=value, box=box, whole=whole, init="init zeros []"))
        return value


class _Builder:
    def __init__(self, machines: int, scopes: tuple[str, ...], file: str) -> None:
        self.height = max(40, 4 * machines)
        edges = [self.height * i // machines for i in range(machines + 1)]
        self.machines = [_Machine(f"m{i}", (edges[i], edges[i + 1])) for i in range(machines)]
        self.transfers: list[Transfer] = []
        self.scopes, self.file = scopes, file

    def enter(self, scope: str, line: int) -> None:
        for m in self.machines:
            m.scope, m.line = scope, f"{self.file}:{line}"

    def move(self, source: _Machine, value: int, to: _Machine, reason: str, scopes: tuple[str, str]) -> int:
        given = source.values[value]
        key = len(self.transfers)
        arrived = to.value(given.of, source.box(value))
        source.instructions.append(Send(value=value, key=key, to=to.name))
        to.instructions.append(Recv(value=arrived, key=key, source=source.name))
        self.transfers.append(
            Transfer(
                key=key,
                source=source.name,
                to=to.name,
                nbytes=given.nbytes,
                of=given.of,
                reason=reason,
                scope=scopes[0],
                for_scope=scopes[1],
            )
        )
        return arrived

    def neighbours(self) -> list[tuple[int, int]]:
        n = len(self.machines)
        return [(i, j) for i in range(n) for j in (i - 1, i + 1) if 0 <= j < n]


def _rows(low: int, high: int, channels: int) -> Box:
    return ((0, BATCH), (low, high), (0, WIDTH), (0, channels))


def _inputs(b: _Builder) -> list[int]:
    found = []
    for m in b.machines:
        low, high = max(0, m.rows[0] - HALO), min(b.height, m.rows[1] + HALO)
        value = m.value("x", _rows(low, high, 1), "fed")
        m.feeds.append(
            Feed(name="x", value=value, box=_rows(low, high, 1), whole=tuple(b for _, b in _rows(low, high, 1)))
        )
        found.append(value)
    label = b.machines[0].value("y", ((0, BATCH),), "fed", "i32")
    b.machines[0].feeds.append(Feed(name="y", value=label, box=((0, BATCH),), whole=(BATCH,)))
    return found


def _local(b: _Builder, index: int, given: list[int], weights: list[int]) -> list[int]:
    """One locally connected layer; from the second on, the rows beside a machine's own come from its neighbours."""
    scope, before = b.scopes[index], b.scopes[index - 1] if index else ""
    parts: list[list[int]] = [[v] for v in given]
    for i, j in b.neighbours() if index else ():
        source, to = b.machines[i], b.machines[j]
        edge = (source.rows[0], source.rows[0] + HALO) if j < i else (source.rows[1] - HALO, source.rows[1])
        source.scope = before
        cut = source.run("slice", (given[i],), f"act{index}", _rows(*edge, CHANNELS[index]))
        parts[j].append(b.move(source, cut, to, "halo", (before, scope)))
    b.enter(scope, 20 + index)
    out = []
    for k, m in enumerate(b.machines):
        low, high = max(0, m.rows[0] - HALO), min(b.height, m.rows[1] + HALO)
        cin, cout = CHANNELS[index], CHANNELS[index + 1]
        wide = given[k] if not index else m.run("concat", tuple(parts[k]), f"act{index}", _rows(low, high, cin))
        whole = (b.height, WIDTH, 25 * cin, cout)
        box = (m.rows, (0, WIDTH), (0, 25 * cin), (0, cout))
        w = m.parameter(f"{scope}/w", box, whole)
        weights.append(w)
        z = m.run("local2d", (wide, w), f"{scope}/z", _rows(*m.rows, cout), per=50 * cin)
        out.append(m.run("relu", (z,), f"act{index + 1}", _rows(*m.rows, cout)))
    return out


def _dense(b: _Builder, given: list[int], training: bool) -> list[int]:
    """Each machine multiplies its rows; the partial sums meet on the first machine, which computes the loss."""
    scope, first = b.scopes[-1], b.machines[0]
    b.enter(scope, 30)
    partial, size = [], WIDTH * CHANNELS[-1]
    logits: Box = ((0, BATCH), (0, CLASSES))
    for m, value in zip(b.machines, given, strict=True):
        box = ((m.rows[0] * size, m.rows[1] * size), (0, CLASSES))
        w = m.parameter(f"{scope}/w", box, (b.height * size, CLASSES))
        partial.append(m.run("matmul", (value, w), "logits", logits, per=2 * size * (m.rows[1] - m.rows[0])))
    others = zip(b.machines[1:], partial[1:], strict=True)
    arrived = [b.move(m, p, first, "partial sum", (scope, scope)) for m, p in others]
    total = first.run("add", (partial[0], *arrived), "logits", logits)
    first.outputs.append(Output(name="logits", value=total, box=logits, whole=(BATCH, CLASSES)))
    b.enter("", 33)
    label = first.feeds[-1].value
    loss = first.run("softmax_cross_entropy", (total, label), "loss", ())
    first.outputs.append(Output(name="loss", value=loss, box=(), whole=()))
    if not training:
        return []
    first.run("softmax_cross_entropy_grad", (total, label), "dlogits", logits, backward=True)
    b.enter(scope, 30)
    start = len(first.values) - 1
    return [start] + [b.move(first, start, m, "gradient", ("", scope)) for m in b.machines[1:]]


def _backward(b: _Builder, acts: list[list[int]], weights: list[list[int]], dlogits: list[int]) -> None:
    b.enter(b.scopes[-1], 30)
    grads = []
    for k, m in enumerate(b.machines):
        w = m.variables[-1]
        dw = m.run("matmul", (acts[4][k], dlogits[k]), f"grad/{w.name}", w.box, per=2 * BATCH, backward=True)
        m.outputs.append(Output(name=f"grad/{w.name}", value=dw, box=w.box, whole=w.whole))
        act = _rows(*m.rows, CHANNELS[4])
        grads.append(m.run("matmul", (dlogits[k], w.value), "dact4", act, per=2 * CLASSES, backward=True))
    for index in range(3, -1, -1):
        b.enter(b.scopes[index], 20 + index)
        cin = CHANNELS[index]
        wide = []
        for k, m in enumerate(b.machines):
            dz = m.run("where", (acts[index + 1][k], grads[k]), f"dz{index}", m.box(grads[k]), backward=True)
            w = next(v for v in m.variables if v.value == weights[index][k])
            dw = m.run("local2d_dw", (acts[index][k], dz), f"grad/{w.name}", w.box, per=2 * BATCH, backward=True)
            m.outputs.append(Output(name=f"grad/{w.name}", value=dw, box=w.box, whole=w.whole))
            if index:
                low, high = max(0, m.rows[0] - HALO), min(b.height, m.rows[1] + HALO)
                box = _rows(low, high, cin)
                wide.append(m.run("local2d_dx", (w.value, dz), f"dact{index}", box, per=400, backward=True))
        if not index:
            return
        parts: list[list[int]] = [[v] for v in wide]
        for i, j in b.neighbours():
            source, to = b.machines[i], b.machines[j]
            edge = (to.rows[1] - HALO, to.rows[1]) if j < i else (to.rows[0], to.rows[0] + HALO)
            cut = source.run("slice", (wide[i],), f"dact{index}", _rows(*edge, cin), backward=True)
            parts[j].append(b.move(source, cut, to, "halo gradient", (b.scopes[index], b.scopes[index - 1])))
        b.enter(b.scopes[index - 1], 20 + index)
        grads = [
            m.run("add_at", tuple(p), f"dact{index}", _rows(*m.rows, cin), backward=True)
            for m, p in zip(b.machines, parts, strict=True)
        ]


def _predict(programs: list[Program], transfers: list[Transfer]) -> Prediction:
    machines = {}
    for p in programs:
        compute = sum(i.seconds for i in p.instructions if isinstance(i, Run))
        into = sum(t.nbytes for t in transfers if t.to == p.machine)
        out = sum(t.nbytes for t in transfers if t.source == p.machine)
        memory = p.arena_nbytes + p.kept_nbytes
        machines[p.machine] = MachinePrediction(compute_s=compute, bytes_in=into, bytes_out=out, memory_bytes=memory)
    slowest = max(m.compute_s for m in machines.values())
    moved = sum(t.nbytes for t in transfers)
    busiest = max(m.bytes_in + m.bytes_out for m in machines.values())
    return Prediction(
        step_s=slowest + busiest / 1e9 + 10 * 50e-6,
        bytes=moved,
        messages=len(transfers),
        lower_bound_s=sum(m.compute_s for m in machines.values()) / len(machines),
        machines=machines,
    )


def sample_plan(
    machines: int = 4,
    *,
    scopes: tuple[str, ...] = ("local1", "local2", "local3", "local4", "softmax"),
    file: str = "examples/digits.py",
    training: bool = True,
    notes: dict[str, str] | None = None,
) -> Plan:
    """A plan of four locally connected layers and a softmax on `machines` machines."""
    b = _Builder(machines, scopes, file)
    acts, weights = [_inputs(b)], []
    for index in range(4):
        own: list[int] = []
        acts.append(_local(b, index, acts[-1], own))
        weights.append(own)
    dlogits = _dense(b, acts[-1], training)
    if training:
        _backward(b, acts, weights, dlogits)
    programs = []
    for m in b.machines:
        kept = sum(v.nbytes for v in m.values if v.place == "kept")
        arena = sum(v.nbytes for v in m.values if v.place == "arena")
        read = [Free(value=i) for i, v in enumerate(m.values) if v.place == "arena"]
        programs.append(
            Program(
                machine=m.name,
                values=tuple(m.values),
                instructions=(*m.instructions, *read),
                feeds=tuple(m.feeds),
                variables=tuple(m.variables),
                outputs=tuple(m.outputs),
                arena_nbytes=arena,
                kept_nbytes=kept,
            )
        )
    found = {"strategy": "rows of the images cut over the machines", "tried columns": "16.2 ms, 5913600 bytes"}
    return Plan(
        version=1,
        programs=tuple(programs),
        transfers=tuple(b.transfers),
        cluster=Cluster.local(machines, cores=1.0, memory_bytes=2**30).to_data(),
        prediction=_predict(programs, b.transfers),
        batch=BATCH,
        loss="loss" if training else None,
        notes=found if notes is None else notes,
    )
