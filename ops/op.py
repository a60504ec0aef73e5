"""The record of an op: all that the system knows of it stands in one `Op`, made by `op(...)` in `ops/<name>.py`.

Two ways to say what an op does to shapes:
    signature="(m,k),(k,n)->(m,n)", summed="k"      NumPy's gufunc notation; unnamed axes to the left are a batch
    infer=..., access=...                           functions, for what letters cannot say (reshape, conv2d, concat)

A kernel is a plain function `(inputs..., out, **attrs)` that fills `out` wholly and keeps nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from rainshed.ops.access import WHOLE, Access, Axis, Box, Reach, unsplittable
from rainshed.ops.cuda import CudaRule
from rainshed.ops.errors import DTypeError, GraphError, RainshedError, ShapeError
from rainshed.ops.ir import NO_ATTRS, Attrs, Device, Node, Origin, current_origin
from rainshed.ops.types import (
    Dim,
    DType,
    Shape,
    TensorType,
    TupleType,
    Type,
    bfloat16,
    broadcast,
    dtype_of,
    fixed,
    promote,
    tensor,
)

Types = tuple[TensorType, ...]
Kernel = Callable[..., None]
Regions = tuple[Box, ...]
Infer = Callable[[Types, Attrs], Type]
AccessRule = Callable[[Types, TensorType, Attrs], Access]
Call = Callable[[], object]
Bind = Callable[[tuple[np.ndarray, ...], int], list[Call]]  # (inputs..., out) and pieces -> calls that may run at once
NativeRule = Callable[[Types, TensorType, Attrs], Bind | None]
Grad = Callable[..., tuple[Node | None, ...]]

# What the time of a kernel depends on: each kind has a rate of its own on a machine (compiler/machines.py).
Work = Literal["product", "convolution", "elementwise", "reduction", "layout", "other"]

REQUIRED = object()  # the default of an attribute that must be given
FLOATS = ("float",)
FACTORS = ("float", "bfloat16")  # of products that are added up
NUMBERS = ("float", "int")
ANY = ("float", "int", "bool")
MOVED = (*ANY, "bfloat16")  # of ops that only move values: bfloat16 is for these, `astype` and products


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call takes. `nbytes` is the memory traffic; None: each input read once, the output written once."""

    flops: int = 0
    nbytes: int | None = None


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a node, as a rule for its attributes sees it."""

    attrs: Attrs
    inputs: Types  # types of the whole node's inputs
    output: TensorType
    box: Box  # in the node's iteration axes
    regions: Regions  # of each input
    result: Box  # of the output


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Op:
    """An op. Called with nodes (and attributes by keyword) it makes a node, after checking all it can."""

    name: str
    arity: int | None  # None: one or more inputs
    attrs: Attrs  # attribute -> default, or REQUIRED
    infer: Infer
    access: AccessRule
    cpu: Kernel  # NumPy, the truth
    grad: Grad | None = None  # None: not differentiable; its inputs get no gradient
    cost: Callable[[Types, Type, Attrs], Cost]
    work: Work = "other"
    cuda: CudaRule | None = None  # what to launch on a GPU (see ops/cuda.py); None: the op runs on the CPU only
    native: NativeRule | None = None  # compiled code for the host (see ops/native.py); where it gives None: cpu
    formula: str | None = None  # element-wise ops: the scalar formula in x0, x1, ..., one text for CPU and CUDA
    clean: Callable[[Types, dict[str, Any]], Mapping[str, Any]] | None = None  # attributes -> their one canonical form
    tile: Callable[[Tile], Mapping[str, Any]] | None = None  # attributes of one tile; None: those of the whole
    kinds: tuple[str, ...] = (
        ANY  # of its inputs' element types, as a check that all ops share; bfloat16 is one by itself
    )
    doc: str = ""

    def __call__(self, *inputs: Any, **attrs: Any) -> Node:
        origin = current_origin()
        try:
            return self.make(as_nodes(self.name, inputs), attrs, origin)
        except RainshedError as error:
            if self.name not in error.message:
                error = type(error)(error.message, **{**error.detail, "op": self.name})
            raise located(error, origin) from None

    def make(
        self,
        inputs: tuple[Node, ...],
        attrs: Attrs = NO_ATTRS,
        origin: Origin | None = None,
        device: Device | None = None,
    ) -> Node:
        """A node of this op, checked. Passes use it to keep an origin and a device."""
        if (self.arity is not None and len(inputs) != self.arity) or (self.arity is None and not inputs):
            wanted = "at least 1" if self.arity is None else self.arity
            raise GraphError(f"{self.name}: takes {wanted} inputs, found {len(inputs)}")
        unknown = [name for name in attrs if name not in self.attrs]
        if unknown:
            known = ", ".join(self.attrs) or "none"
            raise GraphError(f"{self.name}: has no attribute {', '.join(map(repr, unknown))}", attributes=known)
        full = {**self.attrs, **attrs}
        missing = [name for name, value in full.items() if value is REQUIRED]
        if missing:
            raise GraphError(f"{self.name}: attribute {', '.join(map(repr, missing))} must be given")
        # A tuple's items go through `pick`; only `pick` itself takes a tuple node.
        types = tuple(node.type for node in inputs) if self.name == "pick" else tuple(tensor(n.type) for n in inputs)
        if self.name != "pick":
            check_kinds(self, types)  # type: ignore[arg-type]
        try:
            if self.clean is not None:
                full = dict(self.clean(types, full))  # type: ignore[arg-type]
            frozen = MappingProxyType(full)
            type = self.infer(types, frozen)  # type: ignore[arg-type]
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            # A rule that meets an attribute of a kind it does not know; what it says is all that is known.
            given = ", ".join(f"{name}={value!r}" for name, value in attrs.items())
            raise GraphError(f"{self.name}: does not take these attributes: {error}", given=given[:200]) from error
        check_size(self.name, type)
        return Node(
            op=self,
            inputs=inputs,
            type=type,
            attrs=frozen,
            device=device,
            origin=origin if origin is not None else Origin(),
        )

    def access_of(self, node: Node) -> Access:
        """Its index signature. Raises ShapeError where a size is not known."""
        if node.known.access is None:
            node.known.access = self._access_of(node)
        return node.known.access

    def _access_of(self, node: Node) -> Access:
        if isinstance(node.type, TupleType) or self.name == "pick":
            shapes = tuple(fixed(i.type.shape) if isinstance(i.type, TensorType) else () for i in node.inputs)
            return unsplittable(shapes, fixed(node.type.shape) if isinstance(node.type, TensorType) else ())
        types = tuple(i.tensor_type for i in node.inputs)
        for type in (*types, node.type):
            fixed(type.shape)
        return self.access(types, node.type, node.attrs)

    def cost_of(self, node: Node) -> Cost:
        """Flops and bytes of memory traffic of one call."""
        if node.known.cost is None:
            node.known.cost = self._cost_of(node)
        return node.known.cost

    def _cost_of(self, node: Node) -> Cost:
        types = tuple(i.type for i in node.inputs)
        cost = self.cost(types, node.type, node.attrs)  # type: ignore[arg-type]
        if cost.nbytes is not None:
            return cost
        return Cost(cost.flops, sum(t.nbytes for t in types) + node.type.nbytes)

    def tile_attrs(self, node: Node, box: Box) -> Attrs:
        """The attributes of the tile `box` of the node's loop nest."""
        if self.tile is None:
            return node.attrs
        shapes = tuple(fixed(i.shape) for i in node.inputs)
        regions, result = node.access.regions(box, shapes), node.access.result(box, fixed(node.shape))
        return MappingProxyType({**node.attrs, **self.tile(tile_of(node, box, regions, result))})

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def tile_of(node: Node, box: Box, regions: Regions, result: Box) -> Tile:
    """One tile, as the rule for its attributes wants it."""
    types = tuple(i.tensor_type for i in node.inputs)
    return Tile(attrs=node.attrs, inputs=types, output=node.tensor_type, box=box, regions=regions, result=result)


def as_nodes(name: str, values: tuple[Any, ...]) -> tuple[Node, ...]:
    """Nodes as they are; Python numbers as constants of the other inputs' element type; NumPy arrays as constants."""
    if all(isinstance(v, Node) for v in values):
        return values
    types = [v.dtype for v in values if isinstance(v, Node)]
    return tuple(v if isinstance(v, Node) else _constant(name, v, types) for v in values)


_COMPARED = "nodes are compared as objects by == and !=; equal(a, b) and not_equal(a, b) compare their elements"


def _constant(name: str, value: Any, others: list[DType]) -> Node:
    if isinstance(value, (bool, int, float)):
        if not others:
            raise DTypeError(f"{name}: {value!r} has no element type by itself", hint="rs.constant(value, dtype=...)")
        kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
        dtype = others[0]
        if ANY.index(dtype.kind) > ANY.index(kind) or (kind == "bool" and dtype.kind != "bool"):
            hint = _COMPARED if kind == "bool" else "astype(x, dtype) first"
            raise DTypeError(f"{name}: the Python {kind} {value!r} does not fit {dtype}", hint=hint)
        if dtype.kind == "int" and not -(2 ** (8 * dtype.itemsize - 1)) <= value < 2 ** (8 * dtype.itemsize - 1):
            raise DTypeError(f"{name}: {value} does not fit {dtype}")
        return constant_op.make((), {"value": np.asarray(value, dtype.numpy)}, current_origin())
    if isinstance(value, (np.ndarray, np.generic)):
        return constant_op.make((), {"value": np.asarray(value)}, current_origin())
    raise GraphError(f"{name}: takes nodes, numbers and NumPy arrays; found {type(value).__name__}")


def located(error: RainshedError, origin: Origin) -> RainshedError:
    """The error with the user's line, unless it has one."""
    if "built at" in error.detail or not origin.file:
        return error
    return type(error)(error.message, **{**error.detail, "built at": str(origin)})


def check_kinds(op: Op, types: Types) -> None:
    for i, t in enumerate(types):
        if t.dtype is bfloat16 and "bfloat16" not in op.kinds:
            raise DTypeError(f"{op.name}: does not take bfloat16; input {i} is {t}", hint="astype(x, 'float32') first")
        if t.dtype.kind not in op.kinds:
            raise DTypeError(f"{op.name}: takes {' or '.join(op.kinds)}; input {i} is {t}")


MAX_BYTES = 2**48  # no machine of ours holds more; beyond it a size is a mistake, and products of sizes stay exact


def check_size(name: str, type: Type) -> None:
    for t in type.items if isinstance(type, TupleType) else (type,):
        total = 1
        for dim in t.shape:
            if isinstance(dim, int):
                if isinstance(dim, bool) or dim < 0:
                    raise ShapeError(f"{name}: an axis of {t} is negative")
                total *= dim
        if total * t.dtype.itemsize > MAX_BYTES:
            raise ShapeError(f"{name}: {t} would take {total * t.dtype.itemsize / 2**40:,.0f} TiB")


# -- signatures -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed signature such as "(m,k),(k,n)->(m,n)"."""

    text: str
    inputs: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Signature:
        if not re.fullmatch(r"(\([\w,]*\),?)*->\([\w,]*\)", text.replace(" ", "")):
            raise GraphError(f"signature {text!r} is not of the form '(m,k),(k,n)->(m,n)'")
        left, right = text.replace(" ", "").split("->")
        groups = [tuple(x for x in g.split(",") if x) for g in re.findall(r"\(([\w,]*)\)", left)]
        return cls(text, tuple(groups), tuple(x for x in right.strip("()").split(",") if x))

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.output, *(x for group in self.inputs for x in group)]))

    def sizes(self, name: str, types: Types) -> tuple[dict[str, Dim], Shape]:
        """The size of each letter, and the broadcast shape of the unnamed axes."""
        if not any(self.inputs):
            return {}, self._batch(name, types, [t.shape for t in types])
        sizes: dict[str, tuple[Dim, int]] = {}
        batches: list[Shape] = []
        for i, (group, t) in enumerate(zip(self.inputs, types, strict=True)):
            if len(t.shape) < len(group):
                raise ShapeError(f"{name}: input {i} is {t}, but needs axes ({', '.join(group)})", signature=self.text)
            core = t.shape[len(t.shape) - len(group) :]
            batches.append(t.shape[: len(t.shape) - len(group)])
            for letter, size in zip(group, core, strict=True):
                known, first = sizes.setdefault(letter, (size, i))
                if known != size:
                    raise ShapeError(
                        f"{name}: axis {letter} is {known} in input {first} {types[first]} but {size} in input {i} {t}",
                        signature=self.text,
                    )
        return {letter: size for letter, (size, _) in sizes.items()}, self._batch(name, types, batches)

    def _batch(self, name: str, types: Types, shapes: list[Shape]) -> Shape:
        try:
            return broadcast(name, *shapes)
        except ShapeError as error:
            raise ShapeError(error.message, signature=self.text, inputs=", ".join(map(str, types))) from None


def _signature_infer(name: str, sig: Signature, dtype: Callable[[Types], DType]) -> Infer:
    def infer(types: Types, attrs: Attrs) -> Type:
        sizes, batch = sig.sizes(name, types)
        return TensorType(dtype(types), (*batch, *(sizes[x] for x in sig.output)))

    return infer


def _signature_access(name: str, sig: Signature, summed: str, whole: str, combine: str) -> AccessRule:
    def access(types: Types, output: TensorType, attrs: Attrs) -> Access:
        sizes, batch = sig.sizes(name, types)
        rank = len(batch)
        axes = [Axis(f"b{i}", int(size)) for i, size in enumerate(fixed(batch))]
        index = {}
        for letter in sig.letters:
            index[letter] = len(axes)
            role = "whole" if letter in whole else "sum" if letter in summed else "join"
            axes.append(Axis(letter, int(fixed((sizes[letter],))[0]), role))  # type: ignore[arg-type]

        def reaches(t: TensorType, group: tuple[str, ...]) -> tuple[Reach, ...]:
            own = t.shape[: len(t.shape) - len(group)]
            lead = rank - len(own)
            batch_reach = [WHOLE if size == 1 else Reach(lead + i) for i, size in enumerate(own)]
            return (*batch_reach, *(Reach(index[x]) for x in group))

        return Access(
            axes=tuple(axes),
            inputs=tuple(reaches(t, g) for t, g in zip(types, sig.inputs, strict=True)),
            output=tuple(Reach(i) for i in range(rank)) + tuple(Reach(index[x]) for x in sig.output),
            combine=combine if summed else None,
        )

    return access


def signature_cost(sig: Signature, name: str, cost: Callable[..., Cost]) -> Callable[[Types, Type, Attrs], Cost]:
    """`cost` gets the letters' sizes by keyword for one element of the batch axes; the batch multiplies it."""

    def of(types: Types, output: Type, attrs: Attrs) -> Cost:
        sizes, batch = sig.sizes(name, types)
        one = cost(**{k: int(v) for k, v in sizes.items()})  # type: ignore[arg-type]
        times = math.prod(fixed(batch))
        return Cost(one.flops * times, None if one.nbytes is None else one.nbytes * times)

    return of


def _default_cost(types: Types, output: Type, attrs: Attrs) -> Cost:
    items = output.items if isinstance(output, TupleType) else (output,)
    return Cost(flops=max((t.size for t in (*types, *items)), default=0))


def _default_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    return unsplittable(tuple(fixed(t.shape) for t in types), fixed(output.shape))


def op(
    *,
    name: str,
    cpu: Kernel,
    signature: str | None = None,
    summed: str = "",
    whole: str = "",
    combine: str = "add",
    dtype: Callable[[Types], DType] | DType | None = None,
    infer: Infer | None = None,
    access: AccessRule | None = None,
    arity: int | None = None,
    attrs: Mapping[str, Any] | None = None,
    grad: Grad | None = None,
    cost: Callable[..., Cost] | None = None,
    work: Work | None = None,
    cuda: CudaRule | None = None,
    native: NativeRule | None = None,
    formula: str | None = None,
    clean: Callable[[Types, dict[str, Any]], Mapping[str, Any]] | None = None,
    tile: Callable[[Tile], Mapping[str, Any]] | None = None,
    kinds: tuple[str, ...] = ANY,
    doc: str = "",
) -> Op:
    """An op from its signature, or from functions for its shapes.

    dtype   of the result: a DType, a function of the inputs' types, or None: the inputs' common type
    summed  letters of the signature that are reduced; parts along them are joined by the op named `combine`
    whole   letters that must not be cut
    cost    with a signature: a function of the letters' sizes (keywords), for one element of the batch axes;
            else a function (types, output, attrs)
    work    the kind of its kernel, which tells the rate; None: element-wise if it has a formula, else no known one
    Raises  GraphError if the record contradicts itself
    """
    if (signature is None) == (infer is None):
        raise GraphError(f"op {name!r} needs a signature or a function infer, and not both")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise GraphError(f"op name {name!r} is not a lower-case identifier")
    rule = (lambda types: promote(name, *(t.dtype for t in types))) if dtype is None else dtype
    result = rule if callable(rule) else (lambda types: rule)
    sig = None if signature is None else Signature.parse(signature)
    if sig is not None:
        arity = len(sig.inputs)
        infer = _signature_infer(name, sig, result)
        access = access or _signature_access(name, sig, summed, whole, combine)
    assert infer is not None
    if cost is None:
        price: Callable[[Types, Type, Attrs], Cost] = _default_cost
    else:
        price = signature_cost(sig, name, cost) if sig is not None else cost
    return Op(
        name=name,
        arity=arity,
        attrs=MappingProxyType(dict(attrs or {})),
        infer=infer,
        access=access or _default_access,
        cpu=cpu,
        grad=grad,
        cost=price,
        work=work or ("other" if formula is None else "elementwise"),
        cuda=cuda,
        native=native,
        formula=formula,
        clean=clean,
        tile=tile,
        kinds=kinds,
        doc=doc,
    )


# -- the constant, which every op needs to take plain numbers ---------------------------------------------------------
def _constant_clean(types: Types, attrs: dict[str, Any]) -> Mapping[str, Any]:
    value = attrs["value"]
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        return {"value": value}  # one of ours already
    array = np.array(value, order="C")
    dtype_of(array.dtype)
    array.flags.writeable = False
    return {"value": array}


def _constant_infer(types: Types, attrs: Attrs) -> Type:
    return TensorType(dtype_of(attrs["value"].dtype), attrs["value"].shape)


def _constant_tile(tile: Tile) -> Mapping[str, Any]:
    part = tile.attrs["value"][tuple(slice(low, high) for low, high in tile.box)]
    return {"value": part.copy()}


def _constant_access(types: Types, output: TensorType, attrs: Attrs) -> Access:
    shape = fixed(output.shape)
    return Access(
        axes=tuple(Axis(f"b{i}", size) for i, size in enumerate(shape)),
        inputs=(),
        output=tuple(Reach(i) for i in range(len(shape))),
    )


def _constant_cpu(out: np.ndarray, *, value: np.ndarray) -> None:
    out[...] = value


constant_op = op(
    name="constant",
    arity=0,
    attrs={"value": REQUIRED},
    clean=_constant_clean,
    infer=_constant_infer,
    access=_constant_access,
    tile=_constant_tile,
    cost=lambda types, output, attrs: Cost(0, 0),
    cpu=_constant_cpu,
    doc="A value known when the graph is built.",
)
