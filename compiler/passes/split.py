"""split: large nodes become tiles, along axes that their index signatures allow; each tile asks for just the regions it needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rainshed.compiler.cost import FREE
from rainshed.compiler.layouts import Layout, Placed, pieces, tiles
from rainshed.compiler.setting import Setting
from rainshed.compiler.strategy import choose_layouts
from rainshed.ops import CATALOGUE
from rainshed.ops.access import Box, box_shape, box_size, intersect, whole, within
from rainshed.ops.assemble import assemble
from rainshed.ops.ir import Graph, Node, Origin
from rainshed.ops.op import constant_op
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


class Splitter:
    """Builds the tile graph. `made[value]` are its pieces; `bring` gives a region of a value at a home."""

    def __init__(self, graph: Graph, layouts: dict[Node, Layout]) -> None:
        self.graph, self.layouts = graph, layouts
        self.names = value_names(graph)
        self.made: dict[Node, list[tuple[Placed, Node]]] = {}
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
        kept = tuple(tile for node in variables.values() for _, tile in self.made[node])
        return replace(self.graph, outputs=outputs, updates=updates, kept=kept)

    def _root(self, roots: dict[str, Node], name: str, node: Node, variable: Node | None) -> None:
        """The pieces of one output: its own, or those of the variable that it belongs to."""
        if node.op.name in FREE and variable is None:
            roots[f"{name}@0"] = self._leaf(node, whole(fixed(node.shape)), 0)
            return
        for i, (placed, _) in enumerate(self.made[node if variable is None else variable]):
            found = self.bring(node, placed.box, placed.home)
            if variable is not None and found.origin.home != placed.home:
                found = self._landed(found, node, placed)  # a whole piece that lies elsewhere has to come
            roots[f"{name}@{i}"] = found

    def _landed(self, found: Node, node: Node, placed: Placed) -> Node:
        """The same value as a node of its own at the home where it must end."""
        shape = fixed(found.shape)
        return assemble.make(
            (found,), {"boxes": (whole(shape),), "shape": shape}, self._origin(node, placed.home, placed.box)
        )

    def _origin(self, node: Node, home: int, box: Box | None) -> Origin:
        return replace(node.origin, home=home, of=self.names[node], box=box)

    def _tiles(self, node: Node) -> None:
        layout, access = self.layouts[node], node.access
        shape = () if isinstance(node.type, TupleType) else fixed(node.shape)
        parts: list[Node] = []
        for box, home in zip(tiles(access, layout), layout.homes, strict=True):
            parts.append(self._tile(node, box, home, shape))
        if isinstance(node.type, TupleType):
            self.made[node] = [(Placed((), layout.homes[0], (0,)), parts[0])]
            return
        self.made[node] = [
            (piece, self._added(node, piece, parts, layout, shape)) for piece in pieces(access, layout, shape)
        ]

    def _tile(self, node: Node, box: Box, home: int, shape: tuple[int, ...]) -> Node:
        access = node.access
        inputs = []
        if node.op.name == "pick" or any(isinstance(i.type, TupleType) for i in node.inputs):
            inputs = [self.made[i][0][1] for i in node.inputs]
        else:
            regions = access.regions(box, tuple(fixed(i.shape) for i in node.inputs))
            inputs = [self.bring(i, region, home) for i, region in zip(node.inputs, regions, strict=True)]
        result = None if isinstance(node.type, TupleType) else access.result(box, shape)
        attrs = node.op.tile_attrs(node, box) if access.axes else node.attrs
        return node.op.make(tuple(inputs), attrs, self._origin(node, home, result))

    def _added(self, node: Node, piece: Placed, parts: list[Node], layout: Layout, shape: tuple[int, ...]) -> Node:
        """One piece of a value: the tile itself, or the sum of slices of partial results, each machine's own added first."""
        if len(piece.members) == 1:
            (only,) = piece.members
            region = parts[only].origin.box
            if region is None or isinstance(node.type, TupleType):
                return parts[only]
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
                total = combine.make((total, value), origin=self._origin(node, home, piece.box))
            local.append(total)
        total = local[0]
        for value in local[1:]:
            total = combine.make((total, value), origin=self._origin(node, piece.home, piece.box))
        return total

    def bring(self, value: Node, region: Box, home: int) -> Node:
        """A region of a value for a reader at `home`: a whole piece, a slice of one, or slices put together."""
        key = (value, region, home)
        if key not in self.brought:
            self.brought[key] = self._bring(value, region, home)
        return self.brought[key]

    def _bring(self, value: Node, region: Box, home: int) -> Node:
        if value.op.name in FREE:
            return self._leaf(value, region, home)
        for placed, tile in self.made[value]:
            if placed.box == region:
                return tile
        if box_size(region) == 0:  # a tile that lies wholly in the padding reads nothing
            nothing = np.empty(box_shape(region), value.dtype.numpy)
            return constant_op.make((), {"value": nothing}, self._origin(value, home, region))
        blocks, places = [], []
        for placed, tile in self.made[value]:
            common = intersect(placed.box, region)
            if common is None:
                continue
            blocks.append(self._slice(tile, within(common, placed.box), placed.home))
            places.append(within(common, region))
            if common == region:
                break
        if len(blocks) == 1 and places[0] == whole(box_shape(region)):
            return blocks[0]
        origin = self._origin(value, home, region)
        return assemble.make(tuple(blocks), {"boxes": tuple(places), "shape": box_shape(region)}, origin)

    def _slice(self, tile: Node, box: Box, home: int) -> Node:
        """A part of a tile, cut where the tile is."""
        if box == whole(fixed(tile.shape)):
            return tile
        key = (tile, box, home)
        if key not in self.cut:
            attrs = {"start": tuple(low for low, _ in box), "stop": tuple(high for _, high in box)}
            base = tile.origin.box or whole(fixed(tile.shape))
            at = tuple((b + low, b + high) for (b, _), (low, high) in zip(base, box, strict=True))
            self.cut[key] = slice_op.make((tile,), attrs, replace(tile.origin, home=home, box=at))
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
