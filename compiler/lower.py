"""From the scheduled graph to one program per machine: numbered values with places, and the instruction list."""

from __future__ import annotations

from collections.abc import Iterable

from rainshed.compiler.cost import seconds
from rainshed.compiler.passes.allocate import Arena
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
from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST
from rainshed.ops.access import Box, whole
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.text import attr_text
from rainshed.ops.transfer import copy
from rainshed.ops.types import TensorType, TupleType, fixed


def lower(graph: Graph, order: list[Node], setting: Setting) -> tuple[tuple[Program, ...], tuple[Transfer, ...]]:
    """The programs of all machines of the cluster, and the list of transfers.

    In      `order` is a schedule of the graph
    Out     one program per machine, also for one that has nothing to do; every Recv has one Send of the same size
    """
    keys = {node: i for i, node in enumerate(n for n in order if n.op.name == "send")}
    shapes = _whole_shapes(graph)
    programs = []
    for machine in setting.cluster.names:
        mine = [n for n in order if n.device is not None and n.device.machine == machine]
        programs.append(_Lowering(graph, mine, keys, shapes, setting).program(machine))
    return tuple(programs), _transfers(graph, keys)


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
    readers = users(graph.nodes())
    found = []
    for node, key in keys.items():
        assert node.device is not None
        arrival = readers[node][0]
        reader = next(iter(readers.get(arrival, ())), None)
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

    def __init__(
        self,
        graph: Graph,
        order: list[Node],
        keys: dict[Node, int],
        shapes: dict[str, tuple[int, ...]],
        setting: Setting,
    ) -> None:
        self.graph, self.order, self.keys, self.shapes, self.setting = graph, order, keys, shapes, setting
        self.values: list[Value] = []
        self.number: dict[Node, int] = {}
        self.items: dict[Node, tuple[int, ...]] = {}  # values of a tuple node
        self.instructions: list[Instruction] = []
        self.arenas: dict[str, Arena] = {}
        self.reads = self._reads()
        self.pinned: set[int] = set()
        self.step_value = -1
        self.fed: dict[tuple[str, str, Box], int] = {}
        self.feeds: list[Feed] = []
        self.variables: list[Variable] = []

    def _reads(self) -> dict[Node, int]:
        """How often each value is still read on this machine; a pick reads its tuple's item."""
        count: dict[Node, int] = {}
        for node in self.order:
            for value in dict.fromkeys(node.inputs):
                if node.op.name != "recv":
                    count[value] = count.get(value, 0) + 1
        return count

    def program(self, machine: str) -> Program:
        own = set(self.order)
        roots = {n for n in self.graph.roots if n in own}
        for node in self.order:
            self._node(node, roots)
        self._assign(own)
        outputs = [
            Output(name=name, value=self.number[node], box=root_box(node), whole=self.shapes[name])
            for name, node in ((key.rpartition("@")[0], node) for key, node in self.graph.outputs.items())
            if node in own
        ]
        return Program(
            machine=machine,
            values=tuple(self.values),
            instructions=tuple(self.instructions),
            feeds=tuple(self.feeds),
            variables=tuple(self.variables),
            outputs=tuple(outputs),
            step_value=self.step_value,
            arena_nbytes=self.arenas[HOST].peak if HOST in self.arenas else 0,
            kept_nbytes=sum(v.nbytes for v in self.values if v.place == KEPT and v.unit == HOST),
            unit_arenas={unit: arena.peak for unit, arena in sorted(self.arenas.items()) if unit != HOST},
        )

    def _node(self, node: Node, roots: set[Node]) -> None:
        name = node.op.name
        if name == "pick":
            self.number[node] = self.items[node.inputs[0]][node.attrs["index"]]
            self.reads[node] = self.reads.get(node, 0)
            return
        if name == "send":
            self.instructions.append(Send(self.number[node.inputs[0]], self.keys[node], node.attrs["to"]))
        elif isinstance(node.type, TupleType):
            self.items[node] = tuple(self._value(node, item, ARENA) for item in node.type.items)
            self._run(node, self.items[node])
        else:
            self._tensor(node, node.type)
        for value in dict.fromkeys(node.inputs):
            if name != "recv":
                self._read(value, roots)
        if not self.reads.get(node) and node not in roots and name != "send":
            self._release(node)

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
        place = {"variable": KEPT, "constant": KEPT}.get(name, ARENA)
        number = self.number[node] = self._value(node, type, place)
        if name == "variable":
            self.variables.append(self._variable(node, number))
        elif name == "recv":
            (sent,) = node.inputs
            assert sent.device is not None
            self.instructions.append(Recv(number, self.keys[sent], sent.device.machine))
        else:
            self._run(node, (number,))

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
        cost = node.op.cost_of(node)
        self.instructions.append(
            Run(
                op=node.op.name,
                inputs=tuple(inputs),
                outputs=outputs,
                attrs={k: attr_text(v) for k, v in node.attrs.items()},
                scope=node.origin.scope,
                line=str(node.origin) if node.origin.file else "",
                backward=node.origin.backward,
                flops=cost.flops,
                nbytes=cost.nbytes or 0,
                seconds=seconds(node, self.setting.cluster, node.device),
            )
        )

    def _value(self, node: Node, type: TensorType, place: str) -> int:
        assert node.device is not None
        unit = node.device.unit
        offset = -1
        if place == ARENA:
            offset = self.arenas.setdefault(unit, Arena()).take(type.nbytes)
        self.values.append(
            Value(
                dtype=type.dtype.short,
                shape=fixed(type.shape),
                place=place,
                offset=offset,
                unit=unit,
                of=node.origin.of or node.op.name,
                box=node.origin.box,
            )
        )
        return len(self.values) - 1

    def _read(self, value: Node, roots: set[Node]) -> None:
        self.reads[value] -= 1
        if not self.reads[value] and value not in roots:
            self._release(value)

    def _release(self, node: Node) -> None:
        """Nobody reads the value any more. A tuple's item goes with its pick; the tuple itself when all picks are gone."""
        if node.op.name == "pick":
            parent = node.inputs[0]
            numbers: Iterable[int] = (self.items[parent][node.attrs["index"]],)
        elif isinstance(node.type, TupleType):
            picked = {n.attrs["index"] for n in self.order if n.op.name == "pick" and n.inputs[0] is node}
            numbers = (v for i, v in enumerate(self.items[node]) if i not in picked)
        else:
            numbers = (self.number[node],)
        for number in numbers:
            value = self.values[number]
            if value.place == ARENA:
                self.instructions.append(Free(number))
                self.arenas[value.unit].free(value.offset, value.nbytes)

    def _assign(self, own: set[Node]) -> None:
        """Variables take their new values last, when everybody has read the old ones."""
        by_place = {(v.name, v.box): v.value for v in self.variables}
        assigns = []
        for key, node in self.graph.updates.items():
            if node in own:
                variable = by_place[key.rpartition("@")[0], root_box(node)]
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


def _leaf_box(node: Node) -> Box:
    offset = node.attrs["offset"] or (0,) * len(node.shape)
    return tuple((o, o + n) for o, n in zip(offset, fixed(node.shape), strict=True))
