"""All that processes of a job ever say to each other: one struct per message, one union of them.

A message is the header of a frame (`runtime/wire.py`); arrays and long documents travel as the frame's payload. To add
a message: write its struct in the section it belongs to, with bounded fields, and add it to `Message` at the end.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name: TypeAlias = Annotated[str, Meta(max_length=255)]
Text: TypeAlias = Annotated[str, Meta(max_length=8192)]


class Said(Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The root of all messages; the tag is the name of the class."""


# -- data -------------------------------------------------------------------------------------------------------------


class Value(Said, frozen=True):
    """One planned transfer. Payload: the raw array. `key` is the send's number in the plan."""

    step: Count
    key: Count


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


class Assign(Said, frozen=True):
    """The coordinator gives a process its machine in the plan and the others' addresses. Payload: the plan's JSON."""

    machine: Name
    replica: Count
    addresses: dict[Name, Name]


class Ready(Said, frozen=True):
    """The process has loaded its plan and reached its peers."""


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


Message: TypeAlias = Value | Bye | Join | Assign | Ready | Stop | Failed | Heartbeat


def describe(message: Said) -> str:
    """The message as errors name it: its repr, cut to one line's length."""
    text = repr(message)
    return text if len(text) <= 120 else f"{text[:116]} ..."
