"""insert_send_recv: every edge that crosses devices becomes a send and a recv, or a copy inside a machine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rainshed.compiler.alike import Maker
from rainshed.compiler.cost import FREE
from rainshed.compiler.derived import derived
from rainshed.compiler.layouts import disjoint
from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST, variables_of
from rainshed.ops.access import Box, box_shape, box_size, intersect, within
from rainshed.ops.assemble import assemble
from rainshed.ops.ir import Device, Graph, Node
from rainshed.ops.op import constant_op
from rainshed.ops.slice import slice_op
from rainshed.ops.transfer import copy, recv, send

Wanted = tuple[Node, str]  # a value, and the machine that wants slices of it


def insert_send_recv(graph: Graph, setting: Setting) -> Graph:
    """Cut every edge that crosses devices.

    In      every node has a device
    Out     an edge joins nodes of one device, save send to recv and into copy; every element of a value crosses to a
            machine once, also where readers there want overlapping slices of it; inputs and constants never cross, nor does what
            only moves their elements around (compiler/derived.py); a value is copied to a unit, or from it, once; outputs are on
            the host, an update is on the unit of its variable
    Source  Abadi et al. 2016, arXiv:1603.04467, 3.2.2
    """
    crossing = _Crossing(_merge_slices(graph))
    return crossing.run()


class _Crossing:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.make = Maker()
        self.new: dict[Node, Node] = {}
        self.arrived: dict[tuple[Node, str, str], Node] = {}  # (value, machine, unit) -> the value there
        self.hosts: dict[str, Device] = {}
        self.derived = derived(graph.nodes())

    def run(self) -> Graph:
        for node in self.graph.nodes():
            assert node.device is not None
            self.new[node] = node.with_inputs([self.bring(i, node) for i in node.inputs])
        variables = variables_of(self.graph)
        return replace(
            self.graph.renamed(self.new),
            outputs={name: self._landed(node, HOST) for name, node in self.graph.outputs.items()},
            updates={name: self._landed(n, _unit_of(variables[name])) for name, n in self.graph.updates.items()},
        )

    def _landed(self, old: Node, unit: str) -> Node:
        """A root on the unit of its machine where it must end."""
        assert old.device is not None
        return self.bring(old, old.at(Device(old.device.machine, unit)))

    def bring(self, old: Node, reader: Node) -> Node:
        value, device = self.new[old], reader.device
        if value.device is device or value.device == device:
            return value
        assert device is not None
        key = (value, device.machine, device.unit)
        found = self.arrived.get(key)
        if found is None:
            if old in self.derived and value.device is not None and value.device.machine != device.machine:
                found = self._made(old, device)
            else:
                found = self._carry(value, device, reader)
            self.arrived[key] = found
        return found

    def _made(self, old: Node, device: Device) -> Node:
        """A value that the machine makes for itself, on its host, from what it is fed."""
        host = self._host(device.machine)
        there = old.at(host)
        key = (self.new[old], host.machine, host.unit)
        if key not in self.arrived:
            self.arrived[key] = there.with_inputs([self.bring(value, there) for value in old.inputs])
        return self.arrived[key] if host == device else self._copied(self.arrived[key], device)

    def _host(self, machine: str) -> Device:
        if machine not in self.hosts:
            self.hosts[machine] = Device(machine)
        return self.hosts[machine]

    def _carry(self, value: Node, device: Device, reader: Node) -> Node:
        assert value.device is not None
        if value.op is constant_op:
            return value.at(device)  # it is put there once, when the program is loaded
        if value.op.name in FREE:
            return value.at(device) if device.unit == HOST else self._copied(self._fed(value, device.machine), device)
        if value.device.machine != device.machine:
            value = self._on_cpu(value)
            key = (value, device.machine, HOST)
            if key not in self.arrived:
                attrs = {"to": device.machine, "reason": _reason(value, reader)}
                sent = self.make(send, (value,), attrs, value.origin, value.device)
                self.arrived[key] = self.make(recv, (sent,), {}, value.origin, self._host(device.machine))
            value = self.arrived[key]
        return value if value.device == device else self._copied(value, device)

    def _fed(self, value: Node, machine: str) -> Node:
        """An input on the host of a machine that reads it."""
        host = self._host(machine)
        if value.device == host:
            return value
        return self.arrived.setdefault((value, machine, HOST), value.at(host))

    def _on_cpu(self, value: Node) -> Node:
        assert value.device is not None
        host = self._host(value.device.machine)
        if value.device == host:
            return value
        key = (value, host.machine, HOST)
        if key not in self.arrived:
            self.arrived[key] = self._copied(value, host)
        return self.arrived[key]

    def _copied(self, value: Node, device: Device) -> Node:
        return self.make(copy, (value,), {}, value.origin, device)


def _unit_of(node: Node) -> str:
    return HOST if node.device is None else node.device.unit


def _reason(value: Node, reader: Node) -> str:
    """Why a value crosses, in a word or two, for people."""
    if reader.op.name in ("add", "maximum", "minimum", "multiply") and reader.origin.of == value.origin.of:
        return "partial sum"
    if _source(value).op.name == "variable":
        return "weight"
    if value.op.name == "slice":
        return "gradient part" if value.origin.backward else "halo or part"
    return "gradient" if value.origin.backward else "activation"


def _source(value: Node) -> Node:
    """What a value is a part of, or another form of."""
    while value.op.name in ("slice", "copy", "astype"):
        value = value.inputs[0]
    return value


# -- overlapping slices -----------------------------------------------------------------------------------------------
def _merge_slices(graph: Graph) -> Graph:
    """Where readers on one machine want overlapping slices of one value that is elsewhere, send the union of them once.

    The union goes in disjoint boxes; each reader's slice is put together, or cut out, from them on the reading machine.
    """
    wanted: dict[Wanted, dict[Node, None]] = {}
    for node in graph.nodes():
        for value in node.inputs:
            if value.op is slice_op and _sliced(value) and value.inputs[0].op.name not in FREE:
                there, here = value.device, node.device
                if there is not None and here is not None and there.machine != here.machine:
                    wanted.setdefault((value.inputs[0], here.machine), {})[value] = None
    overlapping = {key: slices for key, slices in wanted.items() if _overlap([_box(s) for s in slices])}
    if not overlapping:
        return graph
    return _Merge(graph, overlapping).run()


class _Merge:
    def __init__(self, graph: Graph, overlapping: dict[Wanted, dict[Node, None]]) -> None:
        self.graph, self.overlapping = graph, overlapping
        self.make = Maker()
        self.devices: dict[str, Device] = {}
        self.new: dict[Node, Node] = {}
        self.blocks: dict[Wanted, list[tuple[Box, Node]]] = {}
        self.joined: dict[tuple[Node, str], Node] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes():
            self.new[node] = node.with_inputs([self.bring(i, node) for i in node.inputs])
        return self.graph.renamed(self.new)

    def bring(self, value: Node, reader: Node) -> Node:
        if value.op is not slice_op or reader.device is None:
            return self.new[value]
        key = (value.inputs[0], reader.device.machine)
        if value not in self.overlapping.get(key, ()):
            return self.new[value]
        joined = (value, reader.device.machine)
        if joined not in self.joined:
            self.joined[joined] = self._join(value, key)
        return self.joined[joined]

    def _join(self, value: Node, key: Wanted) -> Node:
        base, machine = key
        device = self.devices.setdefault(machine, Device(machine))
        if key not in self.blocks:
            boxes = disjoint(sorted({_box(s) for s in self.overlapping[key]}, key=box_size, reverse=True))
            self.blocks[key] = [(b, self._cut(self.new[base], b, base, value)) for b in boxes]
        region = _box(value)
        parts, places = [], []
        for box, block in self.blocks[key]:
            common = intersect(box, region)
            if common is not None:
                local = within(common, box)
                parts.append(block if common == box else self._cut(block, local, value, value, device))
                places.append(within(common, region))
        if len(parts) == 1:
            return parts[0]
        attrs = {"boxes": tuple(places), "shape": box_shape(region)}
        return self.make(assemble, tuple(parts), attrs, value.origin, device)

    def _cut(self, source: Node, box: Box, base: Node, like: Node, device: Device | None = None) -> Node:
        if box == tuple((0, n) for n in source.shape):
            return source
        attrs = {"start": tuple(low for low, _ in box), "stop": tuple(high for _, high in box)}
        return self.make(slice_op, (source,), attrs, like.origin, device or base.device)


def _sliced(node: Node) -> bool:
    return node.device == node.inputs[0].device and all(s == 1 for s in node.attrs["step"])


def _box(node: Node) -> Box:
    return tuple(zip(node.attrs["start"], node.attrs["stop"], strict=True))


def _overlap(boxes: list[Box]) -> bool:
    """Whether two of the boxes have elements in common."""
    if len(boxes) < 2:
        return False
    ends = np.array(boxes, np.int64).reshape(len(boxes), -1, 2)
    low, high = ends[..., 0], ends[..., 1]
    common = np.minimum(high[:, None], high[None]) - np.maximum(low[:, None], low[None])
    return bool(np.triu((common > 0).all(axis=-1), 1).any())
