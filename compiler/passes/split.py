"""split: large nodes become tiles, along axes that their index signatures allow; each tile asks for just the regions it needs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rainshed.compiler.alike import Cut, Maker, Pieces
from rainshed.compiler.cost import FREE
from rainshed.compiler.layouts import Layout, Placed, pieces
from rainshed.compiler.partition.strategy import choose_layouts
from rainshed.compiler.setting import Setting
from rainshed.ops import CATALOGUE
from rainshed.ops.access import Box, box_shape, box_size, whole, within
from rainshed.ops.assemble import assemble
from rainshed.ops.ir import Graph, Known, Node, Origin
from rainshed.ops.op import constant_op, tile_of
from rainshed.ops.slice import slice_op
from rainshed.ops.types import TupleType, fixed


def split(graph: Graph, setting: Setting) -> Graph:
    """Cut every node by the layout that the strategy chose, and join the tiles by slices and blocks.

    In      every size is known
    Out     every node has a home, and names the value and the region of it that it is; an output or update that was cut is
            `NAME@i`, one for each piece; a gradient or update has the pieces of its variable; every piece of a variable is kept
    Source  Tofu (Wang et al., EuroSys 2019): regions from affine signatures; partial sums are added where they are needed
    """
    layouts = choose_layouts(graph, setting)
    return Splitter(graph, layouts).run()


@dataclass(frozen=True, slots=True)
class Made:
    """A value as it was cut: its pieces, and the node of each."""

    pieces: Pieces
    nodes: list[Node]


class Splitter:
    """Builds the tile graph. `made[value]` are its pieces; `bring` gives a region of a value at a home."""

    def __init__(self, graph: Graph, layouts: dict[Node, Layout]) -> None:
        self.graph, self.layouts = graph, layouts
        self.names = value_names(graph)
        self.make = Maker()
        self.alike: dict[Hashable, Node] = {}
        self.pieces: dict[int, Pieces] = {}
        self.cuts: dict[Hashable, Cut] = {}
        self.alike_cuts: dict[tuple[Known, Layout], tuple[Cut, Pieces]] = {}
        self.made: dict[Node, Made] = {}
        self.brought: dict[tuple[Node, Box, int], Node] = {}
        self.cut: dict[tuple[Node, Box, int], Node] = {}

    def run(self) -> Graph:
        for node in self.graph.nodes():
            if node.op.name not in FREE:
                self._tiles(node)
        outputs: dict[str, Node] = {}
        updates: dict[str, Node] = {}
        variables = self.graph.variables
        for name, node in self.graph.outputs.items():
            target = variables.get(name[5:]) if name.startswith("grad/") else None
            self._root(outputs, name, node, target)
        for name, node in self.graph.updates.items():
            self._root(updates, name, node, variables[name])
        kept = tuple(tile for node in variables.values() for tile in self.made[node].nodes)
        return replace(self.graph, outputs=outputs, updates=updates, kept=kept)

    def _root(self, roots: dict[str, Node], name: str, node: Node, variable: Node | None) -> None:
        """The pieces of one output: its own, or those of the variable that it belongs to."""
        if node.op.name in FREE and variable is None:
            roots[f"{name}@0"] = self._leaf(node, whole(fixed(node.shape)), 0)
            return
        for i, placed in enumerate(self.made[node if variable is None else variable].pieces.placed):
            found = self.bring(node, placed.box, placed.home)
            if variable is not None and found.origin.home != placed.home:
                found = self._landed(found, node, placed)  # a whole piece that lies elsewhere has to come
            roots[f"{name}@{i}"] = found

    def _landed(self, found: Node, node: Node, placed: Placed) -> Node:
        """The same value as a node of its own at the home where it must end."""
        shape = fixed(found.shape)
        attrs = {"boxes": (whole(shape),), "shape": shape}
        return self.make(assemble, (found,), attrs, self._origin(node, placed.home, placed.box))

    def _origin(self, node: Node, home: int, box: Box | None) -> Origin:
        of = node.origin
        return Origin(of.file, of.line, of.scope, of.pin, self.names[node], box, of.backward, of.again, home)

    def _tiles(self, node: Node) -> None:
        layout = self.layouts[node]
        if isinstance(node.type, TupleType) or any(isinstance(i.type, TupleType) for i in node.inputs):
            only = self._whole(node, layout.homes[0])
            box = () if isinstance(node.type, TupleType) else whole(fixed(node.shape))
            self.made[node] = Made(self._lying((Placed(box, layout.homes[0], (0,)),)), [only])
            return
        cut, lying = self._cut_of(node, layout)
        parts = [self._tile(node, cut, i, home) for i, home in enumerate(layout.homes)]
        self.made[node] = Made(lying, [self._added(node, piece, parts, layout) for piece in lying.placed])

    def _cut_of(self, node: Node, layout: Layout) -> tuple[Cut, Pieces]:
        """The tiles of a node and the pieces of its value: the same for nodes that are alike, and for all of one loop nest."""
        found = self.alike_cuts.get((node.known, layout))
        if found is None:
            access, shape = node.access, fixed(node.shape)
            key = (access, layout, tuple(fixed(i.shape) for i in node.inputs), shape)
            if key not in self.cuts:
                self.cuts[key] = Cut.of(*key)
            found = self.cuts[key], self._lying(pieces(access, layout, shape))
            self.alike_cuts[node.known, layout] = found
        return found

    def _lying(self, placed: tuple[Placed, ...]) -> Pieces:
        """By identity: `pieces` gives the same tuple for the same question, and here it stays alive."""
        if id(placed) not in self.pieces:
            self.pieces[id(placed)] = Pieces(placed)
        return self.pieces[id(placed)]

    def _whole(self, node: Node, home: int) -> Node:
        """A node that is not cut, since it gives or takes several values together."""
        inputs = [
            self.made[i].nodes[0] if isinstance(i.type, TupleType) else self.bring(i, whole(fixed(i.shape)), home)
            for i in node.inputs
        ]
        box = None if isinstance(node.type, TupleType) else whole(fixed(node.shape))
        return node.op.make(tuple(inputs), node.attrs, self._origin(node, home, box))

    def _tile(self, node: Node, cut: Cut, i: int, home: int) -> Node:
        """Tile i of a node. Those of nodes that are alike are alike if their inputs and their own attributes are."""
        inputs = tuple([self.bring(v, region, home) for v, region in zip(node.inputs, cut.regions[i], strict=True)])
        origin = self._origin(node, home, cut.results[i])
        own: Mapping[str, Any] = {}
        if node.op.tile is not None and cut.boxes[i]:
            own = node.op.tile(tile_of(node, cut.boxes[i], cut.regions[i], cut.results[i]))
        key = (node.known, tuple([value.type for value in inputs]), *own.values())
        try:
            first = self.alike.get(key)
        except TypeError:  # an array among the attributes: no other tile has the same
            return node.op.make(inputs, {**node.attrs, **own}, origin)
        if first is None:
            first = self.alike[key] = node.op.make(inputs, {**node.attrs, **own}, origin)
        return first.alike(inputs, origin)

    def _added(self, node: Node, piece: Placed, parts: list[Node], layout: Layout) -> Node:
        """One piece of a value: the tile itself, or the sum of slices of partial results, each machine's own added first."""
        if len(piece.members) == 1:
            (only,) = piece.members
            region = parts[only].origin.box
            if region == piece.box:
                return parts[only]
            assert region is not None
            return self._slice(parts[only], within(piece.box, region), layout.homes[only])
        combine = CATALOGUE[node.access.combine or "add"]
        by_home: dict[int, list[Node]] = {}
        for m in piece.members:
            home = layout.homes[m]
            own = parts[m].origin.box
            assert own is not None
            by_home.setdefault(home, []).append(self._slice(parts[m], within(piece.box, own), home))
        local = []
        for home, values in by_home.items():
            total = values[0]
            for value in values[1:]:
                total = self.make(combine, (total, value), {}, self._origin(node, home, piece.box))
            local.append(total)
        total = local[0]
        for value in local[1:]:
            total = self.make(combine, (total, value), {}, self._origin(node, piece.home, piece.box))
        return total

    def bring(self, value: Node, region: Box, home: int) -> Node:
        """A region of a value for a reader at `home`: a whole piece, a slice of one, or slices put together."""
        key = (value, region, home)
        found = self.brought.get(key)
        if found is None:
            found = self.brought[key] = self._bring(value, region, home)
        return found

    def _bring(self, value: Node, region: Box, home: int) -> Node:
        if value.op.name in FREE:
            return self._leaf(value, region, home)
        made = self.made[value]
        same = made.pieces.number.get(region)
        if same is not None:
            return made.nodes[same]
        if box_size(region) == 0:  # a tile that lies wholly in the padding reads nothing
            nothing = np.empty(box_shape(region), value.dtype.numpy)
            return constant_op.make((), {"value": nothing}, self._origin(value, home, region))
        touched = made.pieces.touched(region)
        blocks = [self._slice(made.nodes[t.piece], t.inner, made.pieces.placed[t.piece].home) for t in touched]
        shape = box_shape(region)
        if len(blocks) == 1 and touched[0].place == whole(shape):
            return blocks[0]
        attrs = {"boxes": tuple([t.place for t in touched]), "shape": shape}
        return self.make(assemble, tuple(blocks), attrs, self._origin(value, home, region))

    def _slice(self, tile: Node, box: Box, home: int) -> Node:
        """A part of a tile, cut where the tile is."""
        key = (tile, box, home)
        if key not in self.cut:
            if box == whole(fixed(tile.shape)):
                self.cut[key] = tile
                return tile
            attrs = {"start": tuple([low for low, _ in box]), "stop": tuple([high for _, high in box])}
            of = tile.origin
            base = of.box or whole(fixed(tile.shape))
            at = tuple([(b + low, b + high) for (b, _), (low, high) in zip(base, box, strict=True)])
            origin = Origin(of.file, of.line, of.scope, of.pin, of.of, at, of.backward, of.again, home)
            self.cut[key] = self.make(slice_op, (tile,), attrs, origin)
        return self.cut[key]

    def _leaf(self, value: Node, region: Box, home: int) -> Node:
        """A part of an input or a constant, made where it is read."""
        key = (value, region, home)
        if key not in self.cut:
            attrs = value.op.tile_attrs(value, region) if region != whole(fixed(value.shape)) else value.attrs
            self.cut[key] = value.op.make((), attrs, self._origin(value, home, region))
        return self.cut[key]


def value_names(graph: Graph) -> dict[Node, str]:
    """A readable name for every value: an input's or variable's own, else layer/op, numbered where it repeats."""
    count: dict[str, int] = {}
    names = {}
    for node in graph.nodes():
        named = node.op.name in ("input", "variable")
        base = node.name if named else f"{node.origin.scope}/{node.op.name}".lstrip("/")
        if node.origin.backward and not named:
            base += "'"
        count[base] = count.get(base, 0) + 1
        names[node] = base if count[base] == 1 else f"{base}.{count[base]}"
    return names
