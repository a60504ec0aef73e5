"""All that processes of a job ever say to each other: one struct per message, one union of them.

A message is the header of a frame (`runtime/wire.py`); arrays and long documents travel as the frame's payload. To add
a message: write its struct in the section it belongs to, with bounded fields, and add it to `Message` at the end.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name: TypeAlias = Annotated[str, Meta(max_length=255)]
Text: TypeAlias = Annotated[str, Meta(max_length=8192)]


def text_said(error: object) -> str:
    """What a message can carry of an error's text: its beginning, in characters that UTF-8 has. File names may hold others."""
    return str(error)[:8000].encode(errors="backslashreplace").decode()[:8192]


Numbers: TypeAlias = Annotated[tuple[Annotated[int, Meta(ge=0, le=2**20)], ...], Meta(max_length=2**14)]


class Said(Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The root of all messages; the tag is the name of the class."""


# -- data -------------------------------------------------------------------------------------------------------------


class Value(Said, frozen=True):
    """One planned transfer. Payload: the raw array. `key` is the send's number in the plan."""

    step: Count
    key: Count


class Finished(Said, frozen=True):
    """The sender has ended this step. Said to machines that it only receives from, so that they do not run away."""

    step: Count


class Ping(Said, frozen=True):
    """What time is it at your end? `sent_ns` of time.perf_counter_ns."""

    sent_ns: Count


class Pong(Said, frozen=True):
    """The answer: the question's own time, and the answerer's clock."""

    sent_ns: Count
    clock_ns: Count


# -- control ----------------------------------------------------------------------------------------------------------


class Bye(Said, frozen=True):
    """The last frame of a connection, sent by the transport itself: no code means that nothing is wrong."""

    code: Name = ""
    text: Text = ""


class Join(Said, frozen=True):
    """A process offers itself to the coordinator, and says where others reach it."""

    role: Name
    name: Name
    address: Name
    pid: Count
    cores: Count
    hostname: Name


class Order(Said, frozen=True):
    """The coordinator tells a process to do something: `what` is a task of its table. Payload: a document."""

    request: Count
    what: Name


class Done(Said, frozen=True):
    """The order is carried out. Payload: a document."""

    request: Count


class Refused(Said, frozen=True):
    """The order failed: the error's stable code and its text; the process is as it was, or has stopped its step."""

    request: Count
    code: Name
    text: Text


class Report(Said, frozen=True):
    """What a process tells while it carries out a long order. Payload: a document."""

    kind: Name


class Stop(Said, frozen=True):
    """Finish and leave; not an error."""

    reason: Text


class Failed(Said, frozen=True):
    """Something went wrong at `who`: the error's stable code and its text."""

    code: Name
    text: Text
    who: Name


class Heartbeat(Said, frozen=True):
    """Alive, and how far: the last step and op begun, and the sender's monotonic clock in seconds."""

    step: Count
    op: Text
    sent_monotonic: float


# -- parameters -------------------------------------------------------------------------------------------------------
# Parts are named by their numbers in the shard's layout (runtime/params/layout.py), rising; a payload holds their raw
# bytes, part behind part, field behind field.


class Attach(Said, frozen=True):
    """The first message to a shard on a connection: the layout that numbers refer to, and the last push known done."""

    layout: Name
    acked: Count


class Attached(Said, frozen=True):
    """The shard, and which push of the sender it applied last: those behind it are due."""

    shard: Count
    applied_seq: Count


class Push(Said, frozen=True):
    """Gradients, computed from parameters of version `based_on`. Identity: (job, sender, incarnation, shard, seq)."""

    seq: Count
    based_on: Count
    parts: Numbers


class PushAck(Said, frozen=True):
    """What became of a push, told after it is done; all up to `applied_seq` are done. `staleness` is in versions."""

    seq: Count
    applied_seq: Count
    version: Count
    staleness: Count
    outcome: Literal["applied", "dup", "gap", "stale", "too_old", "nonfinite", "abort"]
    text: Text = ""


class Fetch(Said, frozen=True):
    """Asks for parts: of each field ("w", or a slot of the rule), all of one moment. Answered when all have values."""

    request: Count
    parts: Numbers
    fields: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=16)] = ("w",)


class Params(Said, frozen=True):
    """The parts that a Fetch asked for. `version` counts the updates of these parts."""

    request: Count
    version: Count


class Put(Said, frozen=True):
    """First values of parts; kept where there is none yet, else ignored: a Put may come twice, from anyone, late."""

    request: Count
    parts: Numbers
    field: Name = "w"


class PutAck(Said, frozen=True):
    """`taken` of the parts had no value before; so many are `missing` in the whole shard now."""

    request: Count
    taken: Count
    missing: Count


class AskShard(Said, frozen=True):
    """Asks a shard for its counters, or for all it holds, of one moment."""

    request: Count
    what: Literal["stats", "snapshot"]


class ShardTold(Said, frozen=True):
    """Answers AskShard. Payload: JSON, or a snapshot (runtime/params/shard.py)."""

    request: Count


class RestoreShard(Said, frozen=True):
    """A snapshot for a shard that has begun nothing yet; answered by PutAck. Payload: the snapshot."""

    request: Count


# What is said between machines or the coordinator, and shards.
AboutParams: TypeAlias = (
    Attach | Attached | Push | PushAck | Fetch | Params | Put | PutAck | AskShard | ShardTold | RestoreShard
)  # fmt: skip

Message: TypeAlias = (
    Value | Finished | Ping | Pong | Bye | Join | Order | Done | Refused | Report | Stop | Failed | Heartbeat
    | AboutParams
)  # fmt: skip


def describe(message: Said) -> str:
    """The message as errors name it: its repr, cut to one line's length."""
    text = repr(message)
    return text if len(text) <= 120 else f"{text[:116]} ..."
