"""An agent: a process that joins a job and carries out its coordinator's orders, until it is told to stop or loses it.

What it can do is a table of tasks: those of roles.py, and those of the training methods, which the engine adds.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np

from rainshed.compiler.this_computer import usable_cores
from rainshed.ops.errors import PeerLostError, ProtocolError, RainshedError, UsageError
from rainshed.ops.op import Op
from rainshed.runtime.auth import Identity
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.documents import pack
from rainshed.runtime.initial import done_text
from rainshed.runtime.messages import Done, Failed, Heartbeat, Join, Message, Order, Refused, Report, Stop, text_said
from rainshed.runtime.transport import Channel, Endpoint, listen

logger: Final = logging.getLogger("rainshed.agent")
MAX_ORDER_NBYTES: Final = 1 << 40

Task = Callable[["Agent", memoryview], tuple[Any, Sequence[np.ndarray]]]
# Done as it comes, on the connection's thread, while a long task runs; it calls `Agent.done` itself when its time has come.
AtOnce = Callable[["Agent", int, memoryview], None]
NO_TASKS: Final[Mapping[str, AtOnce]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """
    address   the coordinator's
    job       its name; "" takes whatever job the token belongs to
    uri       where the agent listens: its scheme is that of the coordinator's address
    """

    address: str
    job: str = ""
    name: str = ""
    uri: str = "tcp://127.0.0.1:0"


class Agent:
    """One member of a job. `run` ends when the job does."""

    def __init__(
        self,
        options: AgentOptions,
        token: bytes,
        *,
        tasks: Mapping[str, Task],
        at_once: Mapping[str, AtOnce] = NO_TASKS,
        ops: Mapping[str, Op],
        timeouts: Timeouts | None = None,
    ) -> None:
        self.options, self.token, self.timeouts = options, token, timeouts or Timeouts()
        self.tasks, self.at_once, self.ops = dict(tasks), dict(at_once), dict(ops)
        self.name = options.name or f"{socket.gethostname()}-{os.getpid()}"
        self.roles: dict[str, Any] = {}  # what the tasks keep: "machine", "server", data, ...
        self.stopping = threading.Event()
        self.progress = (-1, "")  # the step, and what is being done: any change tells the coordinator that work goes on
        self.error: RainshedError | None = None
        self._orders: queue.SimpleQueue[tuple[Order, memoryview] | None] = queue.SimpleQueue()
        self._closers: list[Callable[[], None]] = []
        self._channel: Channel | None = None
        self._endpoint: Endpoint | None = None

    @property
    def role_uri(self) -> str:
        """Where what this agent becomes listens: on the agent's own address, at any port."""
        scheme, _, place = self.options.uri.partition("://")
        return f"{scheme}://role" if scheme == "inproc" else f"{scheme}://{place.rpartition(':')[0]}:0"

    # -- the life of an agent -----------------------------------------------------------------------------------------
    def run(self) -> None:
        """Join, carry out orders, leave. Raises what went wrong, or nothing if the coordinator said that the job is over."""
        identity = Identity("agent", self.name, self.options.job)
        self._endpoint = listen(self.options.uri, identity, self.token, self, self.timeouts)
        beats = threading.Thread(target=self._beats, name="rainshed heartbeat", daemon=True)
        try:
            self._channel = self._endpoint.connect(self.options.address, timeout_s=self.timeouts.connect_s)
            self._say(
                Join(
                    role="agent",
                    name=self.name,
                    address=self._endpoint.address,
                    pid=os.getpid(),
                    cores=usable_cores(),
                    hostname=socket.gethostname(),
                )
            )
            beats.start()
            while (order := self._orders.get()) is not None:
                self._carry_out(*order)
        finally:
            self.stopping.set()
            self.leave()
            self._endpoint.close()
            if beats.is_alive():
                beats.join()
        if self.error is not None:
            raise self.error

    def on_leave(self, close: Callable[[], None]) -> None:
        """Have something closed when the agent leaves, last opened first."""
        self._closers.append(close)

    def leave(self) -> None:
        while self._closers:
            close = self._closers.pop()
            try:
                close()
            except RainshedError as error:
                logger.warning("while leaving: %s", error)

    def report(self, kind: str, body: Any) -> None:
        """Tell the coordinator something in the middle of a task."""
        self._say(Report(kind), pack(body))

    def at_work(self, what: str, done: int, total: int) -> None:
        """How far a long task is, in bytes: the next heartbeat tells it."""
        self.progress = (self.progress[0], done_text(what, done, total))

    def done(self, request: int, body: Any) -> None:
        """Answer an order that was taken at once."""
        self._say(Done(request), pack(body))

    def _carry_out(self, order: Order, payload: memoryview) -> None:
        try:
            task = self.tasks.get(order.what)
            if task is None:
                raise UsageError(f"this worker has no task {order.what!r}", tasks=", ".join(self.tasks))
            self.progress = (self.progress[0], order.what)
            body, arrays = task(self, payload)
            self._say(Done(order.request), pack(body, arrays))
        except RainshedError as error:
            self._refuse(order, error.code, str(error))
        except Exception as error:
            logger.exception("the task %s failed", order.what)
            self._refuse(order, "KERNEL", f"{order.what}: {type(error).__name__}: {error}")

    def _refuse(self, order: Order, code: str, text: str) -> None:
        if self.stopping.is_set():
            return
        try:
            self._say(Refused(order.request, code, text_said(text)))
        except RainshedError as error:
            self._end(error)

    def _say(self, message: Any, payload: Sequence[Any] = ()) -> None:
        assert self._channel is not None
        nbytes = sum(len(p) for p in payload)
        self._channel.send(message, payload, timeout_s=self.timeouts.for_bytes(nbytes))

    def _beats(self) -> None:
        """Tell that this process is alive, and how far it is. A thread of its own: kernels release the interpreter."""
        while not self.stopping.wait(self.timeouts.heartbeat_s):
            step, op = self.progress
            try:
                self._say(Heartbeat(max(step, 0), op, time.monotonic()))
            except RainshedError as error:
                self._end(error)
                return

    def _end(self, error: RainshedError | None) -> None:
        self.error = self.error or error
        self.stopping.set()
        for close in self.roles.values():
            abort = getattr(close, "abort", None)
            if abort is not None:
                abort(error or PeerLostError("the job is over"))
        self._orders.put(None)

    # -- the handler --------------------------------------------------------------------------------------------------
    def connected(self, channel: Channel) -> None:
        if channel.peer.role != "coordinator":
            raise ProtocolError(f"{channel.peer} is no coordinator: a worker takes orders from nobody else")

    def buffer(self, channel: Channel, message: Message, nbytes: int) -> memoryview:
        if nbytes > MAX_ORDER_NBYTES or (nbytes and not isinstance(message, Order)):
            raise ProtocolError(f"{type(message).__name__} with a payload of {nbytes} bytes")
        return memoryview(bytearray(nbytes))

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        match message:
            case Order(what=what, request=request) if what in self.at_once:
                self.at_once[what](self, request, payload)
            case Order():
                self._orders.put((message, payload))
            case Stop():
                self._end(None)
            case Failed(text=text):
                self._end(RainshedError(text))
            case _:
                raise ProtocolError(f"{type(message).__name__} to a worker")

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        if not self.stopping.is_set():
            why = "it left" if error is None else error.message
            self._end(PeerLostError(f"lost the coordinator: {why}"))


def raw_json(value: Any) -> msgspec.Raw:
    """A struct as JSON inside another document."""
    return msgspec.Raw(msgspec.json.encode(value))
