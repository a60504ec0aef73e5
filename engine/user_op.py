"""Ops of the user's own: `rs.op` makes the same record as the built-in ops have, from a NumPy function upwards.

    @rs.op(signature="(n)->()")
    def median(x):
        return np.median(x, axis=-1)

What is not said is not assumed: a letter that is neither in `split` nor in `summed` is never cut, and without `grad` no
gradient passes. Axes to the left of a signature's letters are a batch, as in NumPy's gufuncs, and free to be cut.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypedDict, Unpack, overload

import numpy as np

from rainshed.ops import CATALOGUE
from rainshed.ops.errors import GraphError, KernelError, RainshedError
from rainshed.ops.ir import Attrs, Graph, Node, current_origin
from rainshed.ops.op import ANY, REQUIRED, Cost, Infer, Kernel, Op, Signature, Types, located
from rainshed.ops.op import op as make_op
from rainshed.ops.types import DType, TensorType, Type, dtype_of, promote, shape_of

__all__ = ["UserOp", "op", "ops_of"]

Function = Callable[..., Any]


class Options(TypedDict, total=False):
    """What `op` may be told."""

    name: str
    signature: str
    shape: Function
    dtype: Any
    split: str
    summed: str
    combine: str
    grad: Function
    cost: Callable[..., Cost]
    kinds: tuple[str, ...]
    formula: str
    cuda: Any


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class UserOp(Op):
    """An op that `rs.op` made. It travels to other processes as the function and the options that it was made of."""

    function: Function
    options: Options

    def __reduce__(self) -> tuple[Any, ...]:
        # In two steps, because the function of a gradient may name the op that it belongs to.
        return _blank, (), (self.function, self.options), None, None, _fill


@overload
def op(function: Function, /, **options: Unpack[Options]) -> UserOp: ...
@overload
def op(function: None = None, /, **options: Unpack[Options]) -> Callable[[Function], UserOp]: ...
def op(function: Function | None = None, /, **options: Unpack[Options]) -> UserOp | Callable[[Function], UserOp]:
    """An op from a function, also as a decorator.

    function   NumPy in, NumPy out; or, with a last parameter named `out`, a kernel that fills it. Parameters after `*`
               become attributes: numbers, texts, None, and tuples of them. NumPy's ufuncs need no options.
    name       as printed in graphs; the function's own by default
    signature  "(m,k),(k,n)->(m,n)"; element-wise is "(),()->()"
    shape      instead: a function of the inputs' shapes (and the attributes, by keyword) that gives the result's
    dtype      of the result, or a function of the inputs' types; by default their common type
    split      letters along which the result may be cut
    summed     letters whose parts are joined by the op `combine` ("add")
    grad       (node, dy) -> one node, or None, for each input
    cost       with a signature: a function of the letters' sizes; else of (types, output, attrs)
    kinds      of element types that it takes: "float", "int", "bool"
    formula, cuda   for faster kernels, as in the built-in records
    Raises     GraphError if the record contradicts itself or the name is taken
    """
    origin = current_origin()
    try:
        return _make(function, options) if function is not None else lambda given: _make(given, options)
    except RainshedError as error:
        raise located(error, origin) from None


def ops_of(graph: Graph) -> dict[str, Op]:
    """Name -> op for all that plans of this graph may use: the catalogue and the user's own.

    Raises  GraphError if two different ops have one name
    """
    found: dict[str, Op] = dict(CATALOGUE)
    for node in graph.nodes():
        if found.setdefault(node.op.name, node.op) is not node.op:
            raise GraphError(f"two different ops have the name {node.op.name!r}", built_at=node.origin)
    return found


def _make(function: Function, options: Options) -> UserOp:
    name = options.get("name") or _plain_name(function)
    if name in CATALOGUE:
        raise GraphError(f"there is an op {name!r} already", hint="rs.op(name=...) gives yours another name")
    signature, shape = options.get("signature"), options.get("shape")
    if isinstance(function, np.ufunc) and shape is None:
        signature = signature or ",".join(["()"] * function.nin) + "->()"
    if (signature is None) == (shape is None):
        hint = 'an element-wise function is signature="()->()"'
        raise GraphError(f"op {name!r} needs signature= or shape=, and not both", hint=hint)
    dtype = options.get("dtype")
    infer = None if shape is None else _infer(name, shape, dtype)
    arity, fills, attrs = _parameters(name, function)
    summed = whole = ""
    if signature is not None:
        parsed = Signature.parse(signature)
        if any(len(letter) > 1 for letter in parsed.letters):
            raise GraphError(f"op {name!r}: the axes of a signature are single letters; found {signature!r}")
        summed = options.get("summed", "")
        whole = "".join(x for x in parsed.letters if x not in options.get("split", "") + summed)
        if arity is not None and arity != len(parsed.inputs):
            inputs = len(parsed.inputs)
            raise GraphError(f"op {name!r} has {inputs} inputs by its signature, but its function takes {arity}")
        arity = None
    made = make_op(
        name=name,
        signature=signature,
        infer=infer,
        arity=arity,
        attrs=attrs,
        dtype=(dtype if callable(dtype) or dtype is None else dtype_of(dtype)) if signature is not None else None,
        summed=summed,
        whole=whole,
        combine=options.get("combine", "add"),
        cpu=function if fills else _kernel(name, function),
        grad=_gradient(options.get("grad")),
        cost=options.get("cost"),
        kinds=options.get("kinds", ANY),
        formula=options.get("formula"),
        cuda=options.get("cuda"),
        doc=inspect.getdoc(function) or "",
    )
    return UserOp(function=function, options=options, **{f.name: getattr(made, f.name) for f in fields(Op)})


def _plain_name(function: Function) -> str:
    name = getattr(function, "__name__", "")
    if not name or name == "<lambda>":
        raise GraphError("an op needs a name", hint="rs.op(name=...)")
    return str(name)


def _parameters(name: str, function: Function) -> tuple[int | None, bool, dict[str, Any]]:
    """How many inputs the function takes (None: any number), whether it fills `out`, and its attributes."""
    if isinstance(function, np.ufunc):
        return function.nin, False, {}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        what = f"op {name!r}: {function!r} does not tell its parameters"
        raise GraphError(what, hint="wrap it in a function") from None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    attrs = {p.name: REQUIRED if p.default is p.empty else p.default for p in options}
    fills = bool(positional) and positional[-1].name == "out" and positional[-1].default is inspect.Parameter.empty
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None, fills, attrs
    needed = [p for p in positional if p.default is p.empty]
    return len(needed) - fills, fills, attrs


def _infer(name: str, shape: Function, dtype: Any) -> Infer:
    def infer(types: Types, attrs: Attrs) -> Type:
        rule = dtype if dtype is not None else (lambda types: promote(name, *(t.dtype for t in types)))
        result: DType = rule(types) if callable(rule) else dtype_of(rule)
        return TensorType(result, shape_of(name, shape(*(t.shape for t in types), **attrs)))

    return infer


def _kernel(name: str, function: Function) -> Kernel:
    def cpu(*arrays: np.ndarray, **attrs: Any) -> None:
        *inputs, out = arrays
        result = np.asarray(function(*inputs, **attrs))
        if result.shape != out.shape or not np.can_cast(result.dtype, out.dtype, "same_kind"):
            found = f"{result.dtype.name}{list(result.shape)}"
            raise KernelError(f"{name}: its function gave {found}, its record says {out.dtype.name}{list(out.shape)}")
        out[...] = result

    return cpu


def _gradient(grad: Function | None) -> Callable[..., tuple[Node | None, ...]] | None:
    if grad is None:
        return None

    def parts(node: Node, dy: Node) -> tuple[Node | None, ...]:
        found = grad(node, dy)
        found = found if isinstance(found, tuple) else (found,)
        if len(found) != len(node.inputs):
            what = f"{node.op.name}: has {len(node.inputs)} inputs, its grad gave {len(found)} nodes"
            raise GraphError(what, built_at=node.origin)
        return found

    return parts


def _blank() -> UserOp:
    return object.__new__(UserOp)


def _fill(blank: UserOp, state: tuple[Function, Options]) -> None:
    made = _make(*state)
    for one in fields(UserOp):
        object.__setattr__(blank, one.name, getattr(made, one.name))
