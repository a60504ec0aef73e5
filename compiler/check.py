"""The contracts of the passes, as a check: run after each pass in tests and with RAINSHED_CHECK=1."""

from __future__ import annotations

from rainshed.ops.errors import ContractError
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.types import TensorType, bfloat16, fixed

PLACED = (
    "place", "insert_send_recv", "widen", "tidy", "join_products", "fold_products", "pack_products", "repeat", "fuse", "fuse_sums",
)  # fmt: skip


def check_graph(graph: Graph, *, after: str) -> None:
    """Raises ContractError, naming the pass and the node, if the graph breaks what the pass promises."""
    nodes = graph.nodes()
    for node in nodes:
        again = node.op.make(node.inputs, node.attrs, node.origin)
        _hold(again.type == node.type, after, node, f"its type is {node.type}, its op says {again.type}")
        if after in ("split", *PLACED):
            _hold(node.origin.home >= 0, after, node, "it has no home")
        if after in PLACED:
            _hold(node.device is not None, after, node, "it has no device")
        if (
            after in PLACED
            and node.origin.pin is not None
            and node.device is not None
            and node.op.name not in ("recv", "copy")
        ):
            _hold(
                node.device.machine == node.origin.pin or _glue(node), after, node, f"it is pinned to {node.origin.pin}"
            )
    if after in PLACED[1:]:
        _check_crossings(graph, after)
    if after in PLACED[2:]:
        for node in nodes:
            short = any(isinstance(i.type, TensorType) and i.dtype is bfloat16 for i in node.inputs)
            _hold(
                not short or node.op.work != "convolution", after, node, "it reads bfloat16, for which it has no kernel"
            )
    if after in ("split", *PLACED):
        _check_pieces(graph, after)


def _glue(node: Node) -> bool:
    """Slices, blocks and sends stand where their value or reader is, whoever pinned that."""
    return node.op.name in ("slice", "assemble", "send", "constant", "input", "variable", "step")


def _check_crossings(graph: Graph, after: str) -> None:
    nodes = graph.nodes()
    readers = users(nodes)
    sent: set[tuple[Node, str]] = set()
    for node in nodes:
        if node.op.name == "send":
            key = (node.inputs[0], node.attrs["to"])
            _hold(key not in sent, after, node, "its value is sent there twice")
            sent.add(key)
            _hold(len(readers[node]) == 1 and readers[node][0].op.name == "recv", after, node, "it has not one recv")
        for value in node.inputs:
            if node.op.name not in ("recv", "copy"):
                _hold(value.device == node.device, after, node, f"it reads a value on {value.device}")


def _check_pieces(graph: Graph, after: str) -> None:
    """A gradient and an update have their variable's pieces, on their variable's machines."""
    places = {}
    for node in graph.nodes():
        if node.op.name == "variable":
            offset = node.attrs["offset"] or (0,) * len(node.shape)
            box = tuple((o, o + n) for o, n in zip(offset, fixed(node.shape), strict=True))
            places[node.name, box] = node
    for key, node in [*graph.outputs.items(), *graph.updates.items()]:
        name = key.rpartition("@")[0]
        name = name[5:] if name.startswith("grad/") else name if key in graph.updates else ""
        if not name or not any(n == name for n, _ in places):
            continue
        variable = places.get((name, node.origin.box or ()))
        _hold(variable is not None, after, node, f"{key} is no piece of its variable")
        if variable is not None and after != "split":
            _hold(
                variable.device == node.device or _same_machine(variable, node),
                after,
                node,
                f"{key} is not where its variable is",
            )


def _same_machine(a: Node, b: Node) -> bool:
    return a.device is not None and b.device is not None and a.device.machine == b.device.machine


def _hold(holds: bool, after: str, node: Node, what: str) -> None:
    if not holds:
        raise ContractError(f"after the pass {after}, {node!r}: {what}", built_at=node.origin)
