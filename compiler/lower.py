"""From the scheduled graph to one program per machine: numbered values with places, and the instruction list."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from msgspec import structs

from rainshed.compiler.cost import Clock
from rainshed.compiler.in_place import overwrites
from rainshed.compiler.passes.allocate import Life, allocate
from rainshed.compiler.plan import (
    ARENA,
    FED,
    KEPT,
    Assign,
    Feed,
    Free,
    Instruction,
    Output,
    Program,
    Recv,
    Run,
    Send,
    Transfer,
    Value,
    Variable,
)
from rainshed.compiler.room import rested
from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST
from rainshed.ops.access import Box, whole
from rainshed.ops.ir import Graph, Node
from rainshed.ops.source import pick_op
from rainshed.ops.text import attr_text
from rainshed.ops.transfer import copy, recv, send
from rainshed.ops.types import TensorType, TupleType, fixed

MOST_PACKED = 10_000  # nodes of a plan; of larger ones the arenas are packed only where memory is short


def lower(
    graph: Graph, order: list[Node], setting: Setting, *, rest: bool = False
) -> tuple[tuple[Program, ...], tuple[Transfer, ...]]:
    """The programs of all machines of the cluster, and the list of transfers; see `lowered`."""
    found = lowered(graph, order, setting)
    return found.programs(rest=rest), found.transfers


@dataclass(frozen=True, slots=True)
class Lowered:
    """The instructions of all machines, whose values have no places yet."""

    machines: tuple[_Lowering, ...]
    transfers: tuple[Transfer, ...]
    pack: bool

    def programs(self, *, rest: bool) -> tuple[Program, ...]:
        """One program per machine, also for one that has nothing to do.

        rest    larger arenas, in which no place is taken again by what could be computed while its last users wait for bytes
        """
        return tuple(one.program(self.pack, rest) for one in self.machines)


def lowered(graph: Graph, order: list[Node], setting: Setting) -> Lowered:
    """The instructions of all machines of the cluster, and the list of transfers.

    In      `order` is a schedule of the graph
    Out     every Recv has one Send of the same size
    """
    keys = {node: i for i, node in enumerate(n for n in order if n.op is send)}
    shares: dict[str, Share] = {name: Share(name) for name in setting.cluster.names}
    for node in order:
        assert node.device is not None
        shares[node.device.machine].order.append(node)
    shapes = _whole_shapes(graph)
    for key, node in graph.outputs.items():
        name = key.rpartition("@")[0]
        _share_of(node, shares).outputs.append((name, node, shapes[name]))
    for key, node in graph.updates.items():
        _share_of(node, shares).updates.append((key.rpartition("@")[0], node))
    for node in graph.roots:
        _share_of(node, shares).roots.add(node)
    clock = Clock(setting.cluster)
    pack = setting.thrifty or len(order) <= MOST_PACKED
    machines = tuple(_Lowering(share, keys, clock) for share in shares.values())
    return Lowered(machines, _transfers(graph, keys), pack)


@dataclass(slots=True)
class Share:
    """What one machine has to do: its nodes in order, and which of them are asked for."""

    machine: str
    order: list[Node] = field(default_factory=list)
    outputs: list[tuple[str, Node, tuple[int, ...]]] = field(default_factory=list)  # name, node, shape of the whole
    updates: list[tuple[str, Node]] = field(default_factory=list)  # name of the variable, node
    roots: set[Node] = field(default_factory=set)


def _share_of(node: Node, shares: Mapping[str, Share]) -> Share:
    assert node.device is not None
    return shares[node.device.machine]


def _whole_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Output's name -> the shape that its pieces make together."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, node in graph.outputs.items():
        name = key.rpartition("@")[0]
        highs = tuple(high for _, high in root_box(node))
        known = shapes.get(name, highs)
        shapes[name] = tuple(max(a, b) for a, b in zip(known, highs, strict=True))
    return shapes


def root_box(node: Node) -> Box:
    """The region of its value that an output is."""
    return node.origin.box if node.origin.box is not None else whole(fixed(node.shape))


def _transfers(graph: Graph, keys: dict[Node, int]) -> tuple[Transfer, ...]:
    first: dict[Node, Node] = {}  # a send or recv -> its first reader
    for node in graph.nodes():
        for value in node.inputs:
            if value.op is send or value.op is recv:
                first.setdefault(value, node)
    found = []
    for node, key in keys.items():
        assert node.device is not None
        reader = first.get(first[node])
        found.append(
            Transfer(
                key=key,
                source=node.device.machine,
                to=node.attrs["to"],
                nbytes=node.type.nbytes,
                of=_name_of(node),
                reason=node.attrs["reason"],
                scope=node.origin.scope,
                for_scope=reader.origin.scope if reader is not None else "",
            )
        )
    return tuple(found)


def _name_of(node: Node) -> str:
    if node.origin.box is None:
        return node.origin.of or node.op.name
    return f"{node.origin.of}[{', '.join(f'{low}:{high}' for low, high in node.origin.box)}]"


class _Lowering:
    """Walks one machine's nodes in order, gives each a value, frees values after their last reader."""

    def __init__(self, share: Share, keys: dict[Node, int], clock: Clock) -> None:
        self.share, self.keys, self.clock = share, keys, clock
        self.values: list[Value] = []
        self.nbytes: list[int] = []  # of each value
        self.number: dict[Node, int] = {}
        self.items: dict[Node, tuple[int, ...]] = {}  # values of a tuple node
        self.instructions: list[Instruction] = []
        self.lives: dict[
            str, dict[int, Life]
        ] = {}  # of each unit: the values in its arena, in turns that are instructions
        self.reads: dict[Node, int] = {}  # how often each value is still read here
        self.picked: dict[Node, set[int]] = {}  # which items of a tuple have a pick
        for node in share.order:
            if node.op is not recv:  # its send is elsewhere, and reads the value there
                for value in _unique(node.inputs):
                    self.reads[value] = self.reads.get(value, 0) + 1
            if node.op is pick_op:
                self.picked.setdefault(node.inputs[0], set()).add(node.attrs["index"])
        self.step_value = -1
        self.fed: dict[tuple[str, str, Box], int] = {}
        self.feeds: list[Feed] = []
        self.variables: list[Variable] = []
        self.variable_nodes: dict[tuple[str, Box], Node] = {}
        self.moved: dict[Node, list[str]] = {}  # a new value -> the variables that take it
        for name, node in share.updates:
            self.moved.setdefault(node, []).append(name)
        self.shown = {node for _, node, _ in share.outputs}
        for node in share.order:
            self._node(node)
        self._assign()

    def program(self, pack: bool, rest: bool) -> Program:
        """The program, with a place for each value."""
        outputs = [
            Output(name=name, value=self.number[node], box=root_box(node), whole=shape)
            for name, node, shape in self.share.outputs
        ]
        arenas = self._allocate(pack, rest)
        kept = [n for v, n in zip(self.values, self.nbytes, strict=True) if v.place == KEPT and v.unit == HOST]
        return Program(
            machine=self.share.machine,
            values=tuple(self.values),
            instructions=tuple(self.instructions),
            feeds=tuple(self.feeds),
            variables=tuple(self.variables),
            outputs=tuple(outputs),
            step_value=self.step_value,
            arena_nbytes=arenas.pop(HOST, 0),
            kept_nbytes=sum(kept),
            unit_arenas=dict(sorted(arenas.items())),
        )

    def _allocate(self, pack: bool, rest: bool) -> dict[str, int]:
        """Give the values in arenas their offsets; the bytes of each unit's arena."""
        peaks: dict[str, int] = {}
        for unit, lives in self.lives.items():
            ended = {v: life._replace(last=min(life.last, len(self.instructions))) for v, life in lives.items()}
            offsets, peaks[unit] = allocate(
                rested(self.instructions, ended) if rest else list(ended.values()), pack=pack
            )
            for number, offset in zip(lives, offsets, strict=True):
                self.values[number] = structs.replace(self.values[number], offset=offset)
        return peaks

    def _node(self, node: Node) -> None:
        op = node.op
        if op is pick_op:
            self.number[node] = self.items[node.inputs[0]][node.attrs["index"]]
            self.reads[node] = self.reads.get(node, 0)
            return
        if op is recv:
            self._receive(node)
            self._release_unread(node)
            return
        if op is send:
            self.instructions.append(Send(self.number[node.inputs[0]], self.keys[node], node.attrs["to"]))
        elif isinstance(node.type, TupleType):
            self.items[node] = tuple(self._value(node, item, ARENA) for item in node.type.items)
            self._run(node, self.items[node])
        else:
            self._tensor(node, node.type)
        for value in _unique(node.inputs):
            self._read(value)
        if op is not send:
            self._release_unread(node)

    def _receive(self, node: Node) -> None:
        (sent,) = node.inputs
        assert sent.device is not None
        number = self.number[node] = self._value(node, node.tensor_type, ARENA)
        self.instructions.append(Recv(number, self.keys[sent], sent.device.machine))

    def _tensor(self, node: Node, type: TensorType) -> None:
        name = node.op.name
        if name in ("input", "step"):  # leaves that differ in their pin only are one value here
            key = (name, node.name, _leaf_box(node) if name == "input" else ())
            if key not in self.fed:
                self.fed[key] = self._value(node, type, FED)
                if name == "input":
                    self.feeds.append(
                        Feed(node.name, self.fed[key], _leaf_box(node), node.attrs["whole"] or fixed(node.shape))
                    )
                else:
                    self.step_value = self.fed[key]
            self.number[node] = self.fed[key]
            return
        place = KEPT if name in ("variable", "constant") else ARENA
        moved = self._moves_in_place(node)
        number = self.number[node] = self._value(node, type, place) if moved is None else moved
        if name == "variable":
            self.variables.append(self._variable(node, number))
            self.variable_nodes[node.name, _leaf_box(node)] = node
        else:
            self._run(node, (number,))

    def _moves_in_place(self, node: Node) -> int | None:
        """The variable whose new value this node is, if it can be written where it lies: nobody else reads the old one later."""
        names = self.moved.get(node, ())
        if len(names) != 1 or self.reads.get(node) or node in self.shown:
            return None
        variable = self.variable_nodes.get((names[0], root_box(node)))
        if variable is None or variable.device != node.device or variable in self.moved:
            return None
        left = self.reads.get(variable, 0) - (variable in node.inputs)
        return self.number[variable] if not left and overwrites(node, variable) else None

    def _variable(self, node: Node, number: int) -> Variable:
        box = _leaf_box(node)
        whole_shape = node.attrs["whole"] or fixed(node.shape)
        init = node.attrs["init"]
        if init.values is not None and init.values.shape != fixed(node.shape):
            part = init.values[tuple(slice(low, high) for low, high in box)]
            init = type(init)("array", (), part)
        return Variable(node.name, number, box, tuple(whole_shape), attr_text(init), node.attrs["trainable"])

    def _run(self, node: Node, outputs: tuple[int, ...]) -> None:
        assert node.device is not None
        inputs: list[int] = []
        for value in node.inputs:
            inputs.extend(self.items[value] if isinstance(value.type, TupleType) else (self.number[value],))
        cost, origin = node.op.cost_of(node), node.origin
        texts = node.known.texts
        if texts is None:
            texts = node.known.texts = {k: attr_text(v) for k, v in node.attrs.items()}
        self.instructions.append(
            Run(
                op=node.op.name,
                inputs=tuple(inputs),
                outputs=outputs,
                attrs=texts,
                scope=origin.scope,
                line=str(origin) if origin.file else "",
                backward=origin.backward,
                flops=cost.flops,
                nbytes=cost.nbytes or 0,
                seconds=self.clock.seconds(node, node.device),
            )
        )

    def _value(self, node: Node, type: TensorType, place: str) -> int:
        assert node.device is not None
        unit, nbytes = node.device.unit, type.nbytes
        if place == ARENA:
            self.lives.setdefault(unit, {})[len(self.values)] = Life(nbytes, len(self.instructions), sys.maxsize)
        self.values.append(
            Value(
                dtype=type.dtype.short,
                shape=fixed(type.shape),
                place=place,
                unit=unit,
                of=node.origin.of or node.op.name,
                box=node.origin.box,
            )
        )
        self.nbytes.append(nbytes)
        return len(self.values) - 1

    def _read(self, value: Node) -> None:
        self.reads[value] -= 1
        self._release_unread(value)

    def _release_unread(self, node: Node) -> None:
        """Free what nobody reads any more. A tuple's item goes with its pick; the tuple itself when all picks are gone."""
        if self.reads.get(node) or node in self.share.roots:
            return
        if node.op is pick_op:
            numbers: Iterable[int] = (self.number[node],)
        elif isinstance(node.type, TupleType):
            picked = self.picked.get(node, set())
            numbers = [v for i, v in enumerate(self.items[node]) if i not in picked]
        else:
            numbers = (self.number[node],)
        for number in numbers:
            value = self.values[number]
            if value.place == ARENA:
                self.instructions.append(Free(number))
                life = self.lives[value.unit][number]
                self.lives[value.unit][number] = life._replace(last=len(self.instructions) - 1)

    def _assign(self) -> None:
        """Variables take their new values last, when everybody has read the old ones."""
        by_place = {(v.name, v.box): v.value for v in self.variables}
        assigns = []
        for name, node in self.share.updates:
            variable = by_place[name, root_box(node)]
            if self.number[node] != variable:
                assigns.append(Assign(variable, self._apart(node)))
        self.instructions += assigns

    def _apart(self, node: Node) -> int:
        """The number of a new value; a copy where it is itself a variable, which may change before it is read (a swap)."""
        if node.op.name != "variable":
            return self.number[node]
        assert node.device is not None
        moved = copy.make((node,), {}, node.origin, node.device)
        number = self._value(moved, moved.tensor_type, ARENA)
        self._run(moved, (number,))
        return number


def _unique(nodes: tuple[Node, ...]) -> Iterable[Node]:
    return nodes if len(nodes) < 2 else dict.fromkeys(nodes)


def _leaf_box(node: Node) -> Box:
    offset = node.attrs["offset"] or (0,) * len(node.shape)
    return tuple((o, o + n) for o, n in zip(offset, fixed(node.shape), strict=True))
