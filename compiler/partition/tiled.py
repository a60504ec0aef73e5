"""From a placement of tiles to layouts: what `partition` decided for the forward part, as blocks that `split` can cut.

Tiles of one machine that lie side by side become one block again, so that kernels stay large.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from rainshed.compiler.layouts import Layout
from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.atoms import Tiling, tiling
from rainshed.compiler.partition.derive import joined, regions_as_pieces
from rainshed.compiler.partition.placement import Aim, place_tiles
from rainshed.compiler.partition.search import Search
from rainshed.ops.access import Box, Reach
from rainshed.ops.ir import Graph, Node
from rainshed.ops.types import TupleType, fixed

PER_MACHINE = 9  # tiles of a heavy layer for each machine: to follow uneven speeds, and borders that are not straight
MOST_PARTS = 576


def forward_part(graph: Graph) -> Graph:
    """What is computed before the loss is differentiated, still marked as training if it is."""
    outputs = {name: node for name, node in graph.outputs.items() if not name.startswith("grad/")}
    return replace(graph, outputs=outputs, updates={}, kept=(), rule=None)


def tile_layouts(graph: Graph, cluster: Cluster, aim: Aim) -> Mapping[Node, Layout]:
    """Layouts of the forward part and of its variables; of other nodes nothing is said."""
    parts = min(MOST_PARTS, PER_MACHINE * len(cluster.machines))
    tiles = tiling(forward_part(graph), parts)
    home = place_tiles(tiles, cluster, aim).home
    return layouts_of(tiles, home)


def placed_layouts(graph: Graph, cluster: Cluster, tiles: Tiling, home: np.ndarray) -> dict[Node, Layout]:
    """The layouts of a whole graph whose forward part lies under a placement; all else is computed where its operands lie.

    tiles  of `forward_part(graph)`
    home   the number of the machine of each vertex
    """
    search = Search(graph, cluster, given=layouts_of(tiles, home))
    search.start(lambda *_: 0)
    search.improve()
    search.settle()
    return {node: search.facts[node].kind.options[i].layout for node, i in search.chosen.items()}


def layouts_of(tiles: Tiling, home: np.ndarray) -> dict[Node, Layout]:
    """The layouts under a placement: home[v] is the machine of vertex v."""
    found: dict[Node, Layout] = {}
    wanted: dict[Node, Layout | None] = {}
    for node, cut in tiles.cuts.items():
        if any(isinstance(value.type, TupleType) for value in node.inputs):  # a tuple does not travel
            (whole,) = found[node.inputs[0]].homes
            found[node] = Layout((1,) * len(cut.access.axes), (whole,))
            continue
        own = home[tiles.tasks.vertex[cut.first : cut.first + len(cut.tiles)]]
        found[node] = joined(cut.access, cut.tiles, own.tolist())
        for i, value in enumerate(node.inputs):
            if value.op.name == "variable":
                one = _where_read(cut.access.inputs[i], found[node], value, cut.access.full)
                if value not in wanted:
                    wanted[value] = one
    found.update((variable, layout) for variable, layout in wanted.items() if layout is not None)
    return found


def _where_read(reaches: tuple[Reach, ...], layout: Layout, variable: Node, full: Box) -> Layout | None:
    """A variable in the pieces that its reader needs, each on the reader's machine; None where several need the same."""
    shape = fixed(variable.shape)
    boxes = layout.cut or (full,)
    regions = [tuple(r.interval(box, n) for r, n in zip(reaches, shape, strict=True)) for box in boxes]
    pieces = regions_as_pieces(regions, layout.homes, shape)
    if pieces is None:
        return None
    if len(pieces) == 1:
        return Layout((1,) * len(shape), (pieces[0][1],))
    return Layout((2,) * len(shape), tuple(h for _, h in pieces), tuple(b for b, _ in pieces))
