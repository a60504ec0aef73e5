"""The name scopes of layers, and the checks that all layers share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from rainshed.ops.errors import GraphError, ShapeError
from rainshed.ops.ir import Node, current_origin, scope, walk
from rainshed.ops.types import whole_of

__all__ = ["known_size", "layer", "positive"]


def layer(kind: str, x: Node, name: str | None) -> AbstractContextManager[None]:
    """The scope of one layer: its name, or its kind with the first number that nothing before x has taken."""
    if not isinstance(x, Node):
        raise GraphError(f"{kind}: takes a node; found {type(x).__name__}", built_at=current_origin())
    if name is not None and (not isinstance(name, str) or not name):
        raise GraphError(f"{kind}: a name is a text; found {name!r}", built_at=current_origin())
    return scope(name or _free_name(kind, x))


def _free_name(kind: str, x: Node) -> str:
    outer = current_origin().scope
    taken = set()
    for used in {node.origin.scope for node in walk([x])}:
        if not outer or used.startswith(f"{outer}/"):
            taken.add(used.removeprefix(f"{outer}/" if outer else "").split("/")[0])
    name, number = kind, 0
    while name in taken:
        number += 1
        name = f"{kind}_{number}"
    return name


def known_size(kind: str, x: Node, axis: int) -> int:
    """The size of an axis that gives a variable its shape. Raises ShapeError if x lacks it, or it is the batch axis."""
    rank = x.ndim
    size = x.shape[axis] if -rank <= axis < rank else None
    if not isinstance(size, int):
        raise ShapeError(f"{kind}: axis {axis} of {x.type} must be a known number", built_at=current_origin())
    return size


def positive(kind: str, what: str, value: Any) -> int:
    """A count, checked. Raises GraphError unless it is a whole number from 1 up."""
    count = whole_of(value)
    if count is None or count < 1:
        raise GraphError(f"{kind}: {what} is a whole number from 1 up; found {value!r}", built_at=current_origin())
    return count
