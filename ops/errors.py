"""The errors of Rainshed: one tree, so that `except RainshedError` catches what Rainshed raises on purpose.

Each error says what happened in its first line; the lines below name where, what was expected, and what to do.
"""

from __future__ import annotations


class RainshedError(Exception):
    """The root. `code` is stable and may be matched by programs.

    `detail` holds (label, text) pairs, printed one to a line below the message.
    """

    code = "RAINSHED"

    def __init__(self, message: str, **detail: object) -> None:
        self.message = message
        self.detail = {label.replace("_", " "): str(text) for label, text in detail.items() if text is not None}
        super().__init__(str(self))

    def __str__(self) -> str:
        width = max((len(label) for label in self.detail), default=0)
        rows = [f"  {label:<{width}}  {text}" for label, text in self.detail.items()]
        return "\n".join([self.message, *rows])


class GraphError(RainshedError):
    """The graph cannot be what the user wrote: wrong arity, unknown attribute, clash of names."""

    code = "GRAPH"


class ShapeError(GraphError):
    """Shapes do not fit together."""

    code = "SHAPE"


class DTypeError(GraphError):
    """Element types do not fit together, or an op does not take them."""

    code = "DTYPE"


class ParseError(GraphError):
    """The text form of a graph cannot be read."""

    code = "PARSE"


class UnsupportedError(GraphError):
    """A model from elsewhere needs what Rainshed does not have; the error lists all of it."""

    code = "UNSUPPORTED"


class ClusterError(RainshedError):
    """The description of the machines and links is wrong."""

    code = "CLUSTER"


class CompileError(RainshedError):
    """No plan exists for this graph on this cluster; the message says what would be needed."""

    code = "COMPILE"


class ContractError(CompileError):
    """A pass broke its own contract: a fault of Rainshed's, not of the graph."""

    code = "CONTRACT"


class PlanError(RainshedError):
    """A plan file is wrong: the message holds the JSON path and the name of the node."""

    code = "PLAN"


class KernelError(RainshedError):
    """A kernel raised: the message holds the op, the machine and the user's line."""

    code = "KERNEL"


class UnitError(RainshedError):
    """A unit (a GPU) that a plan uses is not on this machine, or its driver or libraries are not."""

    code = "UNIT"


class NotFiniteError(RainshedError):
    """A value that must be finite holds NaN or infinity."""

    code = "NOT_FINITE"


class StallError(RainshedError):
    """A deadline has passed: the message names who waited for what from whom."""

    code = "STALL"


class TransportError(RainshedError):
    """Something on the way between two processes failed."""

    code = "TRANSPORT"


class ProtocolError(TransportError):
    """A peer sent bytes that the protocol does not allow; the connection is closed, nothing is applied."""

    code = "PROTOCOL"


class AuthError(TransportError):
    """A peer could not prove that it knows the job's token, or speaks another version."""

    code = "AUTH"


class StaleIncarnationError(TransportError):
    """A newer process has taken this one's place: it must do nothing more, and end."""

    code = "STALE_INCARNATION"


class PeerLostError(TransportError):
    """A process of the job has gone."""

    code = "PEER_LOST"


class CheckpointError(RainshedError):
    """A checkpoint cannot be written, read, or does not fit the graph."""

    code = "CHECKPOINT"


class DataError(RainshedError):
    """The data does not fit the graph's inputs, or cannot be read."""

    code = "DATA"


class UsageError(RainshedError):
    """A command or call was given words that it does not take."""

    code = "USAGE"
