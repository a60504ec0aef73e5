"""From nodes to a graph that can be compiled, and from a graph to its values."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np

from rainshed.engine.optimizers import Optimizer
from rainshed.ops.errors import DataError, GraphError
from rainshed.ops.evaluate import evaluate as evaluate_graph
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph, Node, current_origin, walk
from rainshed.ops.source import variable_op
from rainshed.ops.types import Batch
from rainshed.ops.update import UpdateRule

__all__ = ["GraphWarning", "evaluate", "grad", "graph", "variable"]

RESERVED = ("grad/",)  # outputs under these names are the compiler's
LOSS = "loss"


class GraphWarning(UserWarning):
    """A graph that is right, but perhaps not what was meant."""


def graph(
    *,
    loss: Node | None = None,
    outputs: Mapping[str, Node] | None = None,
    updates: Mapping[str, Node] | None = None,
    optimizer: Optimizer | UpdateRule | None = None,
) -> Graph:
    """The graph of a model: what a `build` function gives back.

    loss       one float number to make small; it becomes the output "loss"
    outputs    name -> value that a run returns
    updates    name of a variable -> the value that it has after the step
    optimizer  how training in the graph moves the variables; a parameter server brings its own
    Raises     GraphError if names clash or are missing, or the loss is not one number
    Warns      GraphWarning for a trainable variable that the loss does not depend on
    """
    if not isinstance(optimizer, (Optimizer, UpdateRule, type(None))):
        raise _wrong(f"optimizer is one of rs.SGD(...), rs.Adam(...), ...; found {optimizer!r}")
    named: dict[str, Node] = {}
    if loss is not None:
        if not isinstance(loss, Node) or loss.shape != () or loss.dtype.kind != "float":
            found = loss.type if isinstance(loss, Node) else type(loss).__name__
            at = loss.origin if isinstance(loss, Node) else current_origin()
            hint = "take rs.mean or rs.sum of it"
            raise GraphError(f"a loss is one float number; found {found}", built_at=at, hint=hint)
        named[LOSS] = loss
    for name, node in (outputs or {}).items():
        if name in named:
            raise _wrong(f"the output {name!r} is named twice: the loss has this name")
        named[name] = _checked("output", name, node)
    if not named and not updates:
        raise _wrong("a graph needs a loss, outputs or updates")
    rule = optimizer.rule() if isinstance(optimizer, Optimizer) else optimizer
    if rule is not None and loss is None:
        raise _wrong("an optimizer needs a loss")
    changes = {name: _checked("update", name, node) for name, node in (updates or {}).items()}
    made = Graph(outputs=named, updates=changes, loss=LOSS if loss is not None else None, rule=rule)
    _check_names(made)
    if loss is not None:
        _check_trained(made, loss)
    return made


def variable(name: str, shape: Any, dtype: Any = "float32", *, init: Any = 0.0, trainable: bool = True) -> Node:
    """A value kept from step to step, and trained. Inside `rs.scope("layer")` its name becomes "layer/name".

    init  one of rs.init, a number, or an array of this shape
    """
    scope = current_origin().scope
    full = f"{scope}/{name}" if scope and isinstance(name, str) and name else name
    return variable_op(name=full, shape=shape, dtype=dtype, init=init, trainable=trainable)


def grad(loss: Node, wrt: Any) -> Any:
    """The gradient of a loss, which is one float number, with respect to a value, or to each of a list of values."""
    if isinstance(wrt, Node):
        return gradients(loss, [wrt])[0]
    values = list(wrt) if isinstance(wrt, Iterable) else [wrt]
    if not all(isinstance(one, Node) for one in values):
        raise _wrong(f"grad: takes nodes to differentiate by; found {wrt!r}")
    return gradients(loss, values)


@overload
def evaluate(
    what: Node,
    feeds: Mapping[str, Any] | None = None,
    *,
    variables: Mapping[str, Any] | None = None,
    step: int = 0,
    seed: int = 0,
) -> np.ndarray: ...
@overload
def evaluate(
    what: Sequence[Node],
    feeds: Mapping[str, Any] | None = None,
    *,
    variables: Mapping[str, Any] | None = None,
    step: int = 0,
    seed: int = 0,
) -> list[np.ndarray]: ...
@overload
def evaluate(
    what: Graph,
    feeds: Mapping[str, Any] | None = None,
    *,
    variables: Mapping[str, Any] | None = None,
    step: int = 0,
    seed: int = 0,
) -> dict[str, np.ndarray]: ...
def evaluate(
    what: Node | Sequence[Node] | Graph,
    feeds: Mapping[str, Any] | None = None,
    *,
    variables: Mapping[str, Any] | None = None,
    step: int = 0,
    seed: int = 0,
) -> Any:
    """The values of a node, of several, or of a graph's outputs by name: here and now, with NumPy, in one thread.

    feeds      name of an input -> its value; lists and numbers take the input's element type, and B is found from them
    variables  name -> value; those not given have their initial values, from `seed`
    step       what random ops and the step counter see
    Raises     DataError if a value is missing or does not fit
    """
    if isinstance(what, Graph):
        return _evaluate(what, feeds or {}, variables, step, seed)
    nodes = [what] if isinstance(what, Node) else list(what)
    if not all(isinstance(node, Node) for node in nodes):
        raise _wrong(f"evaluate: takes a node, a list of nodes or a graph; found {what!r}")
    found = _evaluate(Graph({str(i): n for i, n in enumerate(nodes)}), feeds or {}, variables, step, seed)
    return found["0"] if isinstance(what, Node) else list(found.values())


def _evaluate(
    graph: Graph, feeds: Mapping[str, Any], variables: Mapping[str, Any] | None, step: int, seed: int
) -> dict[str, np.ndarray]:
    inputs = graph.inputs
    _check_names(graph)
    given = {
        name: value if isinstance(value, np.ndarray) or name not in inputs else _array(inputs[name], value)
        for name, value in feeds.items()
    }
    if not graph.bound:
        graph = graph.bind(batch=_batch_of(inputs, given))
    return evaluate_graph(graph, given, variables, step=step, seed=seed)[0]


def _array(node: Node, value: Any) -> np.ndarray:
    try:
        return np.asarray(value, None if isinstance(value, np.generic) else node.dtype.numpy)
    except (TypeError, ValueError) as error:
        raise DataError(f"input {node.name!r} is {node.type}; found {type(value).__name__}: {error}") from None


def _batch_of(inputs: Mapping[str, Node], feeds: Mapping[str, Any]) -> int:
    """How long B is, by the arrays that are fed."""
    for name, node in inputs.items():
        for axis, size in enumerate(node.shape):
            if isinstance(size, Batch) and name in feeds:
                found = np.shape(feeds[name])
                if len(found) != node.ndim or found[axis] % size.times or not found[axis]:
                    raise DataError(f"input {name!r} is {node.type}; found shape {list(found)}", built_at=node.origin)
                return int(found[axis] // size.times)
    with_batch = ", ".join(name for name, node in inputs.items() if any(isinstance(d, Batch) for d in node.shape))
    raise DataError("the batch axis B is not known", hint="graph.bind(batch=...)", inputs_with_it=with_batch or "none")


# -- checks -----------------------------------------------------------------------------------------------------------
def _wrong(message: str) -> GraphError:
    return GraphError(message, built_at=current_origin())


def _checked(what: str, name: Any, node: Any) -> Node:
    if not isinstance(name, str) or not name or name.strip() != name or any(c in name for c in "\"'=#\n{}"):
        raise _wrong(f"the name of an {what} is a text without quotes, braces, '=' or '#'; found {name!r}")
    if what == "output" and name.startswith(RESERVED):
        raise _wrong(f"the output {name!r}: names that begin with {RESERVED[0]!r} are those of gradients")
    if not isinstance(node, Node):
        raise _wrong(f"the {what} {name!r} is a node; found {type(node).__name__}")
    if not hasattr(node.type, "shape"):
        raise GraphError(f"the {what} {name!r} is {node.type}; take one value with rs.pick", built_at=node.origin)
    return node


def _check_names(graph: Graph) -> None:
    """Raises GraphError if two leaves, or two different random values, have one name, or an update fits no variable."""
    try:
        inputs, variables = graph.inputs, graph.variables
    except GraphError as error:
        hint = "layers side by side need names of their own: dense(x, 10, name='left'), or a scope each"
        raise GraphError(error.message, **error.detail, hint=hint) from None
    for name in inputs.keys() & variables.keys():
        at, other = variables[name].origin, inputs[name].origin
        raise GraphError(f"an input and a variable have the name {name!r}", built_at=at, first_built_at=other)
    streams: dict[tuple[str, int], Node] = {}
    for node in graph.nodes():
        if "stream" not in node.attrs or node.attrs["whole"] is not None:
            continue
        first = streams.setdefault((node.attrs["stream"], node.attrs["seed"]), node)
        if first is not node:
            raise GraphError(
                f"two random values have the name {node.attrs['stream']!r}, and would be equal",
                built_at=node.origin,
                first_built_at=first.origin,
            )
    for name, node in graph.updates.items():
        if name not in variables:
            raise GraphError(f"an update names {name!r}, which is no variable", known=", ".join(variables) or "none")
        if node.type != variables[name].type:
            wanted = variables[name].type
            raise GraphError(f"the update of {name!r} is {node.type}, the variable {wanted}", built_at=node.origin)


def _check_trained(graph: Graph, loss: Node) -> None:
    reached = set(walk([loss]))
    for name, node in graph.variables.items():
        if not node.attrs["trainable"]:
            continue
        if name in graph.updates:
            hint = "trainable=False leaves it to the update"
            raise GraphError(f"variable {name!r} has an update and is trained too", built_at=node.origin, hint=hint)
        if node not in reached:
            warnings.warn(f"the loss does not depend on variable {name!r} ({node.origin})", GraphWarning, stacklevel=3)
