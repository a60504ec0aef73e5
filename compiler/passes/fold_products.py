"""fold_products: what stands around matrix products becomes part of them: transposes, sums, the step of a weight."""

from __future__ import annotations

from dataclasses import dataclass

from rainshed.compiler.setting import Setting
from rainshed.compiler.units import HOST
from rainshed.ops.gather import scatter_add
from rainshed.ops.ir import Graph, Node, users
from rainshed.ops.local2d import local2d_weight_grad, local2d_weight_step
from rainshed.ops.matmul import matmul, matmul_nt, matmul_tn, matrix_transpose
from rainshed.ops.product import product, product_of
from rainshed.ops.scatter_step import scatter_step
from rainshed.ops.source import variable_op
from rainshed.ops.types import sum_type

Pair = tuple[Node, Node]

STEPS = {local2d_weight_grad: local2d_weight_step, scatter_add: scatter_step}  # gradients, and steps along them
PRODUCTS = {matmul: (False, False), matmul_nt: (False, True), matmul_tn: (True, False)}  # which operands lie transposed


@dataclass(frozen=True, slots=True)
class Sum:
    """c + alpha * (the sum of products), as the nodes of the old graph: `inside` are those that it makes needless."""

    pairs: tuple[Pair, ...]
    turns: tuple[bool, bool]
    summed: int = 0
    alpha: float = 1.0
    c: Node | None = None
    inside: tuple[Node, ...] = ()
    gradient: Node | None = None  # of weights, which is no product of two matrices: see STEPS


def fold_products(graph: Graph, setting: Setting) -> Graph:
    """Make a product of BLAS of each matrix product on a host together with what is read by it, or reads it, alone.

        matmul(transpose(a), b), matmul_nt(a, b), ...        no copy of a or b
        matmul(a, b) + matmul(d, e), sum_to(matmul(a, b))    one result, added to in place
        c + matmul(a, b), w - number * matmul(a, b)          the same, beginning with c
        w - number * local2d_weight_grad(x, dy)              a step of w, written over w: the gradient is never there whole
        w - number * scatter_add(dy, indices)                the same: only the rows that were taken are read and written

    In      every node has a device
            sums of the forward part only where there is one machine: elsewhere a part may be computed while another is waited for
    Out     on hosts, no product of floats reads a transpose; products change in the order of additions only
    """
    if not setting.fuse:
        return graph
    nodes = graph.nodes()
    folder = _Folder(nodes, graph, alone=len(setting.cluster.machines) == 1)
    for node in nodes:
        folder.look(node)
    new: dict[Node, Node] = {}
    for node in nodes:
        found = folder.found.get(node)
        if node in folder.inside:
            continue
        if found is None or (node.op is matmul and found.pairs == (node.inputs,)):  # a plain product stays one
            new[node] = node.with_inputs([new[i] for i in node.inputs])
            continue
        if found.gradient is not None and found.c is not None:
            ((x, dy),) = found.pairs
            attrs = {**found.gradient.attrs, "alpha": found.alpha}
            step = STEPS[found.gradient.op].make((new[x], new[dy], new[found.c]), attrs)
            new[node] = step.alike(step.inputs, node.origin, node.device)
            continue
        attrs = {"turn_a": found.turns[0], "turn_b": found.turns[1], "summed": found.summed, "alpha": found.alpha}
        made = product_of([(new[a], new[b]) for a, b in found.pairs], None if found.c is None else new[found.c], attrs)
        new[node] = made.alike(made.inputs, node.origin, node.device)
    return graph.renamed(new)


class _Folder:
    """Finds, for each node, the sum of products that it is; nodes are looked at in the graph's order."""

    def __init__(self, nodes: tuple[Node, ...], graph: Graph, *, alone: bool) -> None:
        self.alone_there = alone  # one machine
        self.readers = users(nodes)
        self.roots = set(graph.roots)
        self.found: dict[Node, Sum] = {}
        self.inside: set[Node] = set()  # nodes that became part of others

    def look(self, node: Node) -> None:
        if node.device is None or node.device.unit != HOST or len(node.inputs) not in (1, 2):
            return
        found: Sum | None = None
        if node.op in PRODUCTS and node.dtype.kind == "float" and _of_one_type(node):
            found = self._product(node)
        elif node.op is product and len(node.inputs) == 2:  # the pass `simplify` made it
            a, b = node.inputs
            turns = bool(node.attrs["turn_a"]), bool(node.attrs["turn_b"])
            found = Sum(((a, b),), turns, node.attrs["summed"], node.attrs["alpha"])
        elif node.op.name == "sum_to":
            found = self._summed(node)
        elif node.op.name == "add":
            found = self._added(node)
        elif node.op.name == "subtract":
            found = self._moved(node)
        if found is not None:
            self.found[node] = found
            self.inside.update(found.inside)

    def _product(self, node: Node) -> Sum:
        (a, turn_a), (b, turn_b) = (
            self._source(x, turn, node) for x, turn in zip(node.inputs, PRODUCTS[node.op], strict=True)
        )
        for x in node.inputs:
            if x.op is matrix_transpose and x not in self.roots and all(_reads_turned(r) for r in self.readers[x]):
                self.inside.add(x)
        return Sum(((a, b),), (turn_a, turn_b))

    def _source(self, x: Node, turn: bool, reader: Node) -> tuple[Node, bool]:
        if x.op is matrix_transpose and x.device == reader.device:
            return x.inputs[0], not turn
        return x, turn

    def _alone(self, value: Node, reader: Node) -> Sum | None:
        """The sum that a value is, if this reader may take it in."""
        found = self.found.get(value)
        alone = len(self.readers[value]) == 1 and value not in self.roots and value.device == reader.device
        if found is None or found.gradient is not None:
            return None
        return found if alone and value.origin.pin == reader.origin.pin else None

    def _summed(self, node: Node) -> Sum | None:
        """sum_to over leading batch axes"""
        (value,) = node.inputs
        found = self._alone(value, node)
        lead = value.ndim - node.ndim
        if found is None or found.c is not None or found.summed or value.shape[lead:] != node.shape or node.ndim < 2:
            return None
        return Sum(found.pairs, found.turns, lead, found.alpha, None, (*found.inside, value))

    def _added(self, node: Node) -> Sum | None:
        """product + product, product + c, c + product"""
        a, b = node.inputs
        if a.type != node.type or b.type != node.type or a is b:
            return None
        if not (self.alone_there or node.origin.backward):
            return None  # of two products, one may be ready while a machine waits for what the other reads
        left, right = self._alone(a, node), self._alone(b, node)
        if left is not None and right is not None and _alike(left, right):
            pairs, inside = (*left.pairs, *right.pairs), (*left.inside, *right.inside, a, b)
            if _small(pairs, node):
                return Sum(pairs, left.turns, left.summed, left.alpha, right.c if left.c is None else left.c, inside)
        if right is not None and right.c is None:
            return Sum(right.pairs, right.turns, right.summed, right.alpha, a, (*right.inside, b))
        if left is not None and left.c is None:
            return Sum(left.pairs, left.turns, left.summed, left.alpha, b, (*left.inside, a))
        return None

    def _moved(self, node: Node) -> Sum | None:
        """c - number * product"""
        c, step = node.inputs
        if c.type != node.type or step.type != node.type:
            return None
        number, value = 1.0, step
        inside: tuple[Node, ...] = ()
        if step.op.name == "multiply" and len(self.readers[step]) == 1 and step not in self.roots:
            factors = [i for i in step.inputs if i.op.name == "constant" and i.attrs["value"].size == 1]
            others = [i for i in step.inputs if i not in factors]
            if len(factors) == len(others) == 1 and step.device == node.device:
                number, value, inside = float(factors[0].attrs["value"].reshape(())), others[0], (step,)
        if value.op is local2d_weight_grad or (value.op is scatter_add and not value.attrs["axis"]):
            return self._stepped(c, value, -number, (*inside, value), node)
        found = self._alone(value, inside[0] if inside else node)
        if found is None or found.c is not None or value.type != node.type:
            return None
        return Sum(found.pairs, found.turns, found.summed, -number * found.alpha, c, (*found.inside, *inside, value))

    def _stepped(self, w: Node, gradient: Node, alpha: float, inside: tuple[Node, ...], node: Node) -> Sum | None:
        """w + alpha * gradient, where nothing else reads the gradient"""
        alone = len(self.readers[gradient]) == 1 and gradient not in self.roots and gradient.type == node.type
        same = gradient.device == node.device and gradient.origin.pin == node.origin.pin
        if not (alone and same and w.op is variable_op and node.dtype.kind == "float"):
            return None
        x, dy = gradient.inputs
        return Sum(((x, dy),), (False, False), alpha=alpha, c=w, inside=inside, gradient=gradient)


def _of_one_type(node: Node) -> bool:
    """Whether a product's operands have one type, which is that of the result, or bfloat16 for float32."""
    a, b = node.inputs
    return a.dtype is b.dtype and sum_type("product", a.dtype) is node.dtype


def _reads_turned(reader: Node) -> bool:
    return (
        reader.op in PRODUCTS
        and reader.device is not None
        and reader.device.unit == HOST
        and reader.dtype.kind == "float"
    )


def _alike(a: Sum, b: Sum) -> bool:
    return (a.turns, a.summed, a.alpha) == (b.turns, b.summed, b.alpha) and (a.c is None or b.c is None)


def _small(pairs: tuple[Pair, ...], total: Node) -> bool:
    """Whether the matrices are no more to keep than the products would be to add up."""
    read = sum(x.type.nbytes for x in dict.fromkeys(x for pair in pairs for x in pair))
    return read <= len(pairs) * total.type.nbytes
