"""pack_products: a weight that many products of few rows read is laid out once in the order in which they read it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST
from rainshed.ops.ir import Graph, Node
from rainshed.ops.matmul import matmul
from rainshed.ops.packed import pack, packed_product
from rainshed.ops.product import product
from rainshed.ops.types import fixed, float32

FEWEST_READERS = 4  # packing takes as long as one or two products
ROWS = range(4, 65)  # of a product: with fewer it is bound by memory alone, with more BLAS has time to pack
LEAST_NBYTES = 1 << 20  # smaller matrices lie in a core's own cache


@dataclass(frozen=True, slots=True)
class Reader:
    """One product by the matrix b, read as it lies or turned."""

    product: Node
    b: Node
    turn: bool
    summed: bool


def pack_products(graph: Graph, setting: Setting) -> Graph:
    """Let products of few rows by one matrix read a packed copy of it.

        product(x0, w), product(x1, w), ...    p = pack(w), packed_product(x0, p), packed_product(x1, p), ...

    These are the recurrent products of an LSTM or GRU, forward and, by the transpose of w, backward.

    In      every node has a device; products are folded
    Out     the same function, sums in another order; with several machines, or where memory is short, nothing changes
    """
    if not setting.fuse or setting.thrifty or len(setting.cluster.machines) > 1:
        return graph
    groups: dict[tuple[Node, bool], list[Reader]] = {}
    for one in _readers(graph):
        groups.setdefault((one.b, one.turn), []).append(one)
    found = {r.product: r for group in groups.values() if len(group) >= FEWEST_READERS for r in group}
    if not found:
        return graph
    new: dict[Node, Node] = {}
    packed: dict[tuple[Node, bool], Node] = {}
    for node in graph.nodes():
        reader = found.get(node)
        inputs = tuple(new[v] for v in node.inputs)
        if reader is None:
            new[node] = node.with_inputs(inputs)
            continue
        key, (a, b, *c) = (reader.b, reader.turn), inputs
        if key not in packed:
            packed[key] = pack.make((b,), {"turn": reader.turn}, node.origin, node.device)
        attrs = {"columns": node.shape[-1], "summed": reader.summed}
        new[node] = packed_product.make((a, packed[key], *c), attrs, node.origin, node.device)
    return graph.renamed(new)


def _readers(graph: Graph) -> Iterator[Reader]:
    for node in graph.nodes():
        if node.device is None or node.device.unit != HOST or node.op not in (matmul, product):
            continue
        plain = node.op is matmul
        if len(node.inputs) > 3 or any(x.dtype is not float32 for x in node.inputs):
            continue
        if not plain and (node.attrs["turn_a"] or node.attrs["alpha"] != 1.0):
            continue
        a, b = node.inputs[:2]
        if b.type.nbytes < LEAST_NBYTES or b.ndim not in (2, 3) or fixed(a.shape)[-2] not in ROWS:
            continue
        turn, summed = (False, 0) if plain else (bool(node.attrs["turn_b"]), int(node.attrs["summed"]))
        if (a.shape[:-2] == b.shape[:-2] and b.ndim == 3) if summed else a.ndim == 2:
            yield Reader(node, b, turn, bool(summed))
