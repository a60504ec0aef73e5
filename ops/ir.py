"""Nodes and graphs. A node is one value; it is rebuilt, never changed; a graph is the named values that somebody asks for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np
from msgspec import structs

from rainshed.ops.access import Access, Box
from rainshed.ops.errors import GraphError
from rainshed.ops.types import Batch, DType, Shape, TensorType, Type, tensor, whole_of

if TYPE_CHECKING:
    from rainshed.ops.op import Cost, Op
    from rainshed.ops.update import UpdateRule

Attrs = Mapping[str, Any]
NO_ATTRS: Attrs = MappingProxyType({})


# Devices, origins and nodes are made by the million where a plan is large: a struct is made some ten times faster than a dataclass.
class Device(msgspec.Struct, frozen=True, order=True):
    """Where a node runs: a machine of the cluster, and one of its devices ("cpu", "cuda0", ...)."""

    machine: str
    unit: str = "cpu"

    def __str__(self) -> str:
        return f"{self.machine}/{self.unit}"

    @classmethod
    def parse(cls, text: str) -> Device:
        machine, _, unit = text.partition("/")
        return cls(machine, unit or "cpu")


class Origin(msgspec.Struct, frozen=True):
    """Where a node comes from: the user's line, the scope (layer) it stands in, and which part of which value it is.

    Kept through every pass, so that an error in a tile of a gradient still names the line that the user wrote.
    """

    file: str = ""
    line: int = 0
    scope: str = ""
    pin: str | None = None  # the machine that the user chose with `rs.on(...)`
    of: str = ""  # name of the value before `split`, "" if it was never split
    box: Box | None = None  # which region of that value
    backward: bool = False  # made by `differentiate`
    again: bool = False  # computed a second time, to save memory (made by `rematerialize`)
    home: int = -1  # the machine (its place in the cluster) that `split` cut this tile for

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.file else "(no source line)"


@dataclass(frozen=True, slots=True)
class _Where:
    scope: str = ""
    pin: str | None = None
    origin: Origin | None = None  # set while rules build nodes on behalf of another node


_WHERE: ContextVar[_Where] = ContextVar("rainshed_where", default=_Where())  # noqa: B039  (frozen)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Nodes made inside belong to the layer `name`; scopes nest as `outer/inner`."""
    now = _WHERE.get()
    token = _WHERE.set(replace(now, scope=f"{now.scope}/{name}" if now.scope else name))
    try:
        yield
    finally:
        _WHERE.reset(token)


@contextmanager
def on(machine: str) -> Iterator[None]:
    """Nodes made inside run on `machine`, whatever the partitioner would choose.

    Raises  GraphError inside of `on` another machine: the nodes would have to be on both
    """
    if not isinstance(machine, str) or not machine:
        raise GraphError(f"on: a machine is named by a text; found {machine!r}", built_at=current_origin())
    outer = _WHERE.get().pin
    if outer not in (None, machine):
        what = f"on({machine!r}) stands inside of on({outer!r}): what is built here cannot be on both machines"
        raise GraphError(what, built_at=current_origin(), needed=f"build it before or after the block of {outer!r}")
    token = _WHERE.set(replace(_WHERE.get(), pin=machine))
    try:
        yield
    finally:
        _WHERE.reset(token)


@contextmanager
def on_behalf(origin: Origin) -> Iterator[None]:
    """Nodes made inside have this origin: gradients and rewrites point at the line of the node they stem from."""
    token = _WHERE.set(replace(_WHERE.get(), origin=origin))
    try:
        yield
    finally:
        _WHERE.reset(token)


# Programs that ship with Rainshed: their lines are a user's lines.
_PROGRAMS = ("rainshed.engine.models",)


def _is_ours(module: str) -> bool:
    return (module.startswith("rainshed.") and module not in _PROGRAMS) or module == "contextlib"


def current_origin() -> Origin:
    """The origin for a node made now: the first line on the stack that is not Rainshed's own."""
    where = _WHERE.get()
    if where.origin is not None:
        return where.origin
    frame = sys._getframe(1)
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back  # type: ignore[assignment]
    if frame is None:
        return Origin(scope=where.scope, pin=where.pin)
    return Origin(frame.f_code.co_filename, frame.f_lineno, where.scope, where.pin)


# The operators of Node (`a + b`, `a @ b`, `a[1:]`) call ops that are defined later, from nodes; ops/__init__ fills
# this table once, when both exist.
_OPERATORS: dict[str, Callable[..., Any]] = {}


def set_operators(table: Mapping[str, Callable[..., Any]]) -> None:
    _OPERATORS.update(table)


def _forward(name: str) -> Callable[[Node, Any], Node]:
    return lambda self, other: _OPERATORS[name](self, other)


def _reflected(name: str) -> Callable[[Node, Any], Node]:
    return lambda self, other: _OPERATORS[name](other, self)


@dataclass(slots=True, eq=False)
class Known:
    """What has been worked out of an op with its attributes on inputs of certain types: nodes that agree in these share it."""

    access: Access | None = None
    cost: Cost | None = None
    texts: Mapping[str, str] | None = None  # of the attributes (ops/text.py)


class Node(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One value: `op` applied to `inputs`. Rebuilt, never changed; compared by identity."""

    op: Op
    inputs: tuple[Node, ...]
    type: Type
    attrs: Attrs = NO_ATTRS
    device: Device | None = None
    origin: Origin = Origin()
    known: Known = msgspec.field(default_factory=Known)

    # -- what it is ---------------------------------------------------------------------------------------------------
    @property
    def shape(self) -> Shape:
        return tensor(self.type).shape

    @property
    def dtype(self) -> DType:
        return tensor(self.type).dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def tensor_type(self) -> TensorType:
        return tensor(self.type)

    @property
    def access(self) -> Access:
        """Its index signature; every size must be known (see `Graph.bind`)."""
        return self.op.access_of(self)

    @property
    def name(self) -> str:
        """The name of an input or variable, "" for other nodes."""
        return str(self.attrs.get("name", ""))

    def __repr__(self) -> str:
        return f"<{self.op.name} : {self.type}>"

    def _repr_html_(self) -> str:
        return f"<code>{self.op.name} : {self.type}</code>"

    # -- rebuilding ---------------------------------------------------------------------------------------------------
    def with_inputs(self, inputs: Iterable[Node]) -> Node:
        """The same op on other inputs, itself if they are the same; checked again unless they have the same types."""
        return self.placed(inputs, self.device)

    def placed(self, inputs: Iterable[Node], device: Device | None) -> Node:
        """The same op on other inputs and at a device."""
        inputs = tuple(inputs)
        if inputs == self.inputs:
            return self.at(device)
        for a, b in zip(inputs, self.inputs, strict=True):
            if a.type is not b.type and a.type != b.type:
                return self.op.make(inputs, self.attrs, self.origin, device)
        return self.alike(inputs, self.origin, device)

    def alike(self, inputs: tuple[Node, ...], origin: Origin, device: Device | None = None) -> Node:
        """The same op, attributes and type on inputs of the same types, which are not checked again."""
        return Node(
            op=self.op, inputs=inputs, type=self.type, attrs=self.attrs, device=device, origin=origin, known=self.known
        )

    def at(self, device: Device | None) -> Node:
        if device is self.device or device == self.device:
            return self
        return self.alike(self.inputs, self.origin, device)

    def with_origin(self, **changes: Any) -> Node:
        return structs.replace(self, origin=structs.replace(self.origin, **changes))

    # -- operators ----------------------------------------------------------------------------------------------------
    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return _OPERATORS["namespace"](api_version)

    def __bool__(self) -> bool:
        raise GraphError(
            f"the truth of {self!r} is not known while the graph is built",
            built_at=self.origin,
            hint="use rs.where(condition, a, b), or run the graph and test the result",
        )

    __array_ufunc__ = None  # `array + node` is left to Node.__radd__

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise GraphError(f"{self!r} has no value yet", built_at=self.origin, hint="run it: rs.evaluate(node, feeds)")

    def __iter__(self) -> Iterator[Node]:
        if not self.shape or not isinstance(self.shape[0], int):
            raise GraphError(f"cannot iterate over {self!r}", built_at=self.origin)
        return (self[i] for i in range(self.shape[0]))

    def __getitem__(self, key: Any) -> Node:
        return _OPERATORS["getitem"](self, key)  # type: ignore[no-any-return]

    __add__, __radd__ = _forward("add"), _reflected("add")
    __sub__, __rsub__ = _forward("subtract"), _reflected("subtract")
    __mul__, __rmul__ = _forward("multiply"), _reflected("multiply")
    __truediv__, __rtruediv__ = _forward("divide"), _reflected("divide")
    __floordiv__, __rfloordiv__ = _forward("floor_divide"), _reflected("floor_divide")
    __mod__, __rmod__ = _forward("remainder"), _reflected("remainder")
    __pow__, __rpow__ = _forward("pow"), _reflected("pow")
    __matmul__, __rmatmul__ = _forward("matmul"), _reflected("matmul")
    __and__, __rand__ = _forward("bitwise_and"), _reflected("bitwise_and")
    __or__, __ror__ = _forward("bitwise_or"), _reflected("bitwise_or")
    __xor__, __rxor__ = _forward("bitwise_xor"), _reflected("bitwise_xor")
    __lshift__, __rlshift__ = _forward("bitwise_left_shift"), _reflected("bitwise_left_shift")
    __rshift__, __rrshift__ = _forward("bitwise_right_shift"), _reflected("bitwise_right_shift")
    __lt__ = _forward("less")
    __le__ = _forward("less_equal")
    __gt__ = _forward("greater")
    __ge__ = _forward("greater_equal")

    def __neg__(self) -> Node:
        return _OPERATORS["negative"](self)  # type: ignore[no-any-return]

    def __pos__(self) -> Node:
        return self

    def __abs__(self) -> Node:
        return _OPERATORS["abs"](self)  # type: ignore[no-any-return]

    def __invert__(self) -> Node:
        name = "logical_not" if self.dtype.kind == "bool" else "bitwise_invert"
        return _OPERATORS[name](self)  # type: ignore[no-any-return]

    @property
    def mT(self) -> Node:
        """The matrix (or stack of matrices) transposed: its last two axes swapped."""
        return _OPERATORS["matrix_transpose"](self)  # type: ignore[no-any-return]

    @property
    def T(self) -> Node:
        """A matrix transposed; two axes only, as in the Array API."""
        if self.ndim != 2:
            raise GraphError(
                f"T is for matrices; {self!r} has {self.ndim} axes",
                built_at=self.origin,
                hint="use permute_dims or .mT",
            )
        return self.mT


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Named values, and what becomes of the variables.

    outputs  name -> node: what a run returns
    updates  variable's name -> node: the value the variable has after the step
    loss     the name of the output to differentiate, or None
    rule     how a gradient moves its variable (see ops/update.py), or None: then gradients become outputs `grad/NAME`
    kept     variables that stay though nobody reads them: the compiler may find that a part of one is not needed
    """

    outputs: Mapping[str, Node]
    updates: Mapping[str, Node] = field(default_factory=dict)
    loss: str | None = None
    rule: UpdateRule | None = None
    kept: tuple[Node, ...] = ()
    _order: tuple[Node, ...] | None = field(default=None, init=False, repr=False)

    @property
    def roots(self) -> tuple[Node, ...]:
        return (*self.outputs.values(), *self.updates.values(), *self.kept)

    def nodes(self) -> tuple[Node, ...]:
        """Every node, inputs before users; the same order on every run."""
        if self._order is None:
            object.__setattr__(self, "_order", walk(self.roots))  # worked out once: a graph does not change
        return self._order  # type: ignore[return-value]

    def sources(self, op: str) -> dict[str, Node]:
        """Name -> node for each leaf of one kind: "input" or "variable". Raises GraphError if a name is used twice."""
        found: dict[str, Node] = {}
        for node in self.nodes():
            if node.op.name == op:
                if node.name in found and node.origin.box == found[node.name].origin.box:
                    first = found[node.name].origin
                    raise GraphError(
                        f"two {op}s have the name {node.name!r}", built_at=node.origin, first_built_at=first
                    )
                found[node.name] = node
        return found

    @property
    def inputs(self) -> dict[str, Node]:
        return self.sources("input")

    @property
    def variables(self) -> dict[str, Node]:
        return self.sources("variable")

    def rebuild(self, change: Callable[[Node, tuple[Node, ...]], Node]) -> Self:
        """A new graph: `change(node, new_inputs)` is called for each node, inputs first."""
        new: dict[Node, Node] = {}
        for node in self.nodes():
            new[node] = change(node, tuple(new[i] for i in node.inputs))
        return self.renamed(new)

    def renamed(self, new: Mapping[Node, Node], *, same_order: bool = False) -> Self:
        """The same outputs and updates, with each root replaced by `new[root]`; the graph itself where these are its roots.

        same_order  every node was replaced by one of its own that reads what the node read: the order is that of this graph
        """
        if all(new[node] is node for node in self.roots):
            return self  # nodes do not change, so neither has what they read
        found = replace(
            self,
            outputs={name: new[node] for name, node in self.outputs.items()},
            updates={name: new[node] for name, node in self.updates.items()},
            kept=tuple(new[node] for node in self.kept),
        )
        if same_order:
            object.__setattr__(found, "_order", tuple(new[node] for node in self.nodes()))
        return found

    def bind(self, *, batch: int) -> Self:
        """The graph with the batch axis B known to be `batch` long."""
        size = whole_of(batch)
        if size is None or size < 1:
            raise GraphError(f"batch must be a whole number of examples, at least 1; found {batch!r}")
        return self.rebuild(lambda n, ins: n.op.make(ins, substitute(n.attrs, size), n.origin, n.device))

    @property
    def bound(self) -> bool:
        return not any(
            isinstance(dim, Batch)
            for node in self.nodes()
            if isinstance(node.type, TensorType)
            for dim in node.type.shape
        )


def substitute(value: Any, batch: int) -> Any:
    """The attribute with every B replaced."""
    if isinstance(value, Batch):
        return value.times * batch
    if isinstance(value, tuple):
        return tuple(substitute(v, batch) for v in value)
    if isinstance(value, Mapping):
        return MappingProxyType({k: substitute(v, batch) for k, v in value.items()})
    return value


def walk(roots: Iterable[Node]) -> tuple[Node, ...]:
    """All nodes that the roots depend on, inputs before users, by depth first from the first root. Never recursive."""
    done: dict[Node, None] = {}
    for root in roots:
        if root in done:
            continue
        way = [root]  # down from the root, and what is left to look at of the inputs of each
        left = [iter(root.inputs)]
        while way:
            for value in left[-1]:
                if value not in done:
                    way.append(value)
                    left.append(iter(value.inputs))
                    break
            else:
                left.pop()
                done[way.pop()] = None
    return tuple(done)


def numbered(nodes: Sequence[Node]) -> tuple[list[list[int]], list[list[int]]]:
    """For each node, by its place in the list: whose values it reads, each once, and who reads its value.

    In  `nodes` are a whole graph
    """
    number = {node: i for i, node in enumerate(nodes)}
    reads: list[list[int]] = []
    readers: list[list[int]] = [[] for _ in nodes]
    for i, node in enumerate(nodes):
        inputs = node.inputs
        if len(inputs) == 1:
            v = number[inputs[0]]
            reads.append([v])
            readers[v].append(i)
            continue
        values = [number[v] for v in dict.fromkeys(inputs)] if inputs else []
        reads.append(values)
        for v in values:
            readers[v].append(i)
    return reads, readers


def users(nodes: Iterable[Node]) -> dict[Node, list[Node]]:
    """For each node, who reads it; a node that reads a value twice stands there once."""
    found: dict[Node, list[Node]] = {}
    for node in nodes:
        if node not in found:
            found[node] = []
        for value in node.inputs if len(node.inputs) < 2 else dict.fromkeys(node.inputs):
            if value in found:
                found[value].append(node)
            else:
                found[value] = [node]
    return found
