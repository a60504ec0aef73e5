"""fuse: element-wise neighbours on one device become one kernel."""

from __future__ import annotations

from collections.abc import Hashable

from rainshed.compiler.setting import Setting
from rainshed.ops.fused import is_fusable, kernel_of
from rainshed.ops.ir import Graph, Known, Node, users
from rainshed.ops.op import constant_op
from rainshed.ops.source import input_op

MAX_NODES = 24  # of one kernel: longer ones gain nothing, and take long to print and to compile
MAX_INPUTS = 12


def fuse(graph: Graph, setting: Setting) -> Graph:
    """Put a node into its only reader's kernel where both are element-wise, on one device, and of one shape.

    In      every node has a device
    Out     a value that was read once, by an element-wise op of its own shape and device, is no longer a node; same bits
    """
    if not setting.fuse:
        return graph
    nodes = graph.nodes()
    readers = users(nodes)
    roots = set(graph.roots)
    fusable: dict[Known, bool] = {}
    group: dict[Node, list[Node]] = {}  # last node of a kernel -> its nodes, inputs first
    inside: set[Node] = set()
    for node in nodes:
        if node.known not in fusable:
            fusable[node.known] = is_fusable(node)
        if not fusable[node.known]:
            continue
        members = [node]
        for value in dict.fromkeys(node.inputs):
            if value in group and len(readers[value]) == 1 and value not in roots and _fits(value, node):
                together = [*group[value], *(m for m in members if m not in group[value])]
                if len(together) <= MAX_NODES and len(_outer(together)) <= MAX_INPUTS:
                    members = together
                    inside.add(value)
        group[node] = members
    return _rebuilt(graph, group, inside)


def _fits(value: Node, reader: Node) -> bool:
    return value.shape == reader.shape and value.device == reader.device and value.origin.pin == reader.origin.pin


def _outer(members: list[Node]) -> list[Node]:
    """What a kernel reads from outside, without the small constants that go into it."""
    own = set(members)
    return list(dict.fromkeys(i for m in members for i in m.inputs if i not in own and not _inline(i)))


def _inline(node: Node) -> bool:
    return node.op is constant_op and node.attrs["value"].size == 1


def _rebuilt(graph: Graph, group: dict[Node, list[Node]], inside: set[Node]) -> Graph:
    new: dict[Node, Node] = {}
    kernels: dict[Hashable, Node] = {}
    for node in graph.nodes():
        if node in inside:
            continue
        if len(group.get(node, ())) > 1:
            new[node] = _kernel(group[node], new, kernels)
        else:
            new[node] = node.with_inputs([new[i] for i in node.inputs])
    return graph.renamed(new)


def _kernel(members: list[Node], new: dict[Node, Node], kernels: dict[Hashable, Node]) -> Node:
    """The kernel that does what `members` do. `kernels`: one of each form that has been made."""
    outer, last = _outer(members), members[-1]
    inputs = tuple([new[value] for value in outer])
    form = _form(members, outer)
    if form in kernels:
        return kernels[form].alike(inputs, last.origin, last.device)
    body: dict[Node, Node] = {
        value: input_op.make((), {"name": f"x{i}", "shape": value.shape, "dtype": value.dtype})
        for i, value in enumerate(outer)
    }
    for node in members:
        for i in node.inputs:
            if _inline(i):
                body.setdefault(i, i.at(None))
        body[node] = node.alike(tuple([body[i] for i in node.inputs]), node.origin)
    # The body's walk must meet x0, x1, ... by name, whatever their order.
    kernel = kernels[form] = kernel_of(Graph({"y": body[last]}), inputs).alike(inputs, last.origin, last.device)
    return kernel


def _form(members: list[Node], outer: list[Node]) -> Hashable:
    """Equal for kernels that differ in nothing but which values they read: what each member is, and what it reads."""
    number: dict[Node, Hashable] = {value: i for i, value in enumerate(outer)}
    form: list[Hashable] = []
    for i, node in enumerate(members):
        reads = [number.setdefault(v, (len(number), v.known)) for v in node.inputs]  # new here: a constant of the body
        form.append((node.known, *reads))
        number[node] = -1 - i
    return tuple(form)
