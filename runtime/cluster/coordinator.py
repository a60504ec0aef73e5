"""The coordinator's side of a job: who has joined, orders to them, their answers, and the first thing that goes wrong.

An agent is a process (or thread) that joined. Orders to one agent are carried out one after the other; `Answer.get` waits for what
comes back as long as the agent gets on: its time runs from the last sign of progress. When an agent is lost, everybody who waits is
told at once, by an error that names the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np

from rainshed.ops import errors
from rainshed.ops.errors import PeerLostError, ProtocolError, RainshedError, StallError, UsageError
from rainshed.runtime.auth import Identity
from rainshed.runtime.deadlines import Deadline, Listening, Timeouts
from rainshed.runtime.documents import pack, unpack
from rainshed.runtime.messages import Done, Failed, Heartbeat, Join, Message, Order, Refused, Report, Stop
from rainshed.runtime.transport import Channel, Endpoint, listen

MAX_ANSWER_NBYTES: Final = 1 << 40
GRACE_S: Final = 1.0  # an agent that lost a neighbour may tell it before the neighbour's own connection ends
_BY_CODE: Final = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RainshedError)
}
T = TypeVar("T")
OnReport = Callable[["AgentHandle", str, memoryview], None]
OnWork = Callable[["AgentHandle"], None]


@dataclass(eq=False)
class AgentHandle:
    """An agent as the coordinator sees it.

    title    what it has become, such as "machine r0/m1"
    doing    what it says that it does, and how far it is
    moved    when it last got on: another step, more of what it does, a report, or bytes of an answer (time.monotonic)
    """

    channel: Channel
    joined: Join
    title: str = ""
    step: int = -1
    doing: str = ""
    last_beat: float = field(default_factory=time.monotonic)
    moved: float = field(default_factory=time.monotonic)
    answering: bool = False  # the payload of an answer is coming in

    @property
    def last_moved(self) -> float:
        return max(self.moved, self.channel.counters.last_heard) if self.answering else self.moved

    def beat(self, step: int, doing: str) -> bool:
        """A heartbeat has come; whether it tells of progress."""
        self.last_beat = time.monotonic()
        if (step, doing) == (self.step, self.doing):
            return False
        self.step, self.doing, self.moved = step, doing, self.last_beat
        return True

    def __str__(self) -> str:
        who = self.title or self.joined.name
        return f"{who} (process {self.joined.pid} on {self.joined.hostname})"


class Answer:
    """What an order will bring. `silent_s`: how long the agent may show no progress."""

    def __init__(self, coordinator: Coordinator, agent: AgentHandle, what: str, silent_s: float) -> None:
        self._coordinator, self.agent, self._what = coordinator, agent, what
        self._silent_s = silent_s
        self.asked = time.monotonic()
        self._payload: memoryview | None = None
        self._error: RainshedError | None = None

    def get(self, kind: type[T]) -> tuple[T, list[np.ndarray]]:
        """The answer. Raises the agent's own error, PeerLostError if any agent was lost, StallError when the time is up."""
        self.wait()
        assert self._payload is not None
        return unpack(self._payload, kind)

    @property
    def ended(self) -> bool:
        return self._payload is not None or self._error is not None

    def wait(self) -> None:
        coordinator = self._coordinator
        with coordinator.changed:
            while not self.ended and coordinator.waiting and (left_s := self._left_s()) > 0:
                coordinator.changed.wait(min(left_s, coordinator.timeouts.heartbeat_s))
        if self._error is not None:
            raise coordinator.cause(self._error)
        if self._payload is None:
            raise coordinator.error or (self._stalled() if coordinator.waiting else self._closed())

    def _left_s(self) -> float:
        return self._silent_s - self._coordinator.listening.silent_s(max(self.asked, self.agent.last_moved))

    def _closed(self) -> PeerLostError:
        return PeerLostError(f"the job was closed while {self.agent} was to {self._what}")

    def _stalled(self) -> StallError:
        now, agent = time.monotonic(), self.agent
        return StallError(
            f"the coordinator waited {self._silent_s:.3g} s for {agent} to {self._what}",
            last_step=agent.step if agent.step >= 0 else None,
            doing=agent.doing or None,
            asked=f"{now - self.asked:.1f} s ago",
            last_heard=f"{now - agent.channel.counters.last_heard:.1f} s ago",
        )


class Coordinator:
    """Listens for agents; the Handler of its own endpoint.

    on_report  called for each Report, on the agent's reading thread
    on_work    called there when a heartbeat tells of progress: see AgentHandle.doing
    """

    on_work: OnWork | None = None

    def __init__(
        self, uri: str, token: bytes, *, job: str, timeouts: Timeouts | None = None, on_report: OnReport | None = None
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self.changed = threading.Condition()
        self.error: RainshedError | None = None
        self.on_report = on_report
        self.agents: list[AgentHandle] = []
        self._by_channel: dict[Channel, AgentHandle] = {}
        self._answers: dict[int, Answer] = {}
        self._request = 0
        self._closing = False
        self._beat = threading.Event()
        self.listening = Listening(self.timeouts.heartbeat_s, self.timeouts.suspect_s, time.monotonic())
        self.endpoint: Endpoint = listen(uri, Identity("coordinator", "coordinator", job), token, self, self.timeouts)
        self._watch = threading.Thread(target=self._watch_beats, name="rainshed coordinator watches", daemon=True)
        self._watch.start()

    @property
    def address(self) -> str:
        return self.endpoint.address

    @property
    def waiting(self) -> bool:
        """Whether answers can still come."""
        return self.error is None and not self._closing

    # -- agents -------------------------------------------------------------------------------------------------------
    def wait_for(self, count: int, *, check: Callable[[], None] | None = None) -> list[AgentHandle]:
        """Wait until so many agents have joined. `check` is called now and then: it raises if one can no longer come.

        Raises  StallError when nobody has joined for `start_s`
        """
        deadline, joined = Deadline.after(self.timeouts.start_s), 0
        with self.changed:
            while len(self.agents) < count:
                if len(self.agents) > joined:
                    deadline, joined = Deadline.after(self.timeouts.start_s), len(self.agents)
                if self.error is not None:
                    raise self.error
                if deadline.expired:
                    raise StallError(
                        f"the coordinator waited {deadline.total_s:.3g} s for {count} workers; {len(self.agents)} have joined",
                        address=self.address,
                    )
                self.changed.wait(min(0.2, deadline.left()))
                if check is not None:
                    check()
            return list(self.agents)

    def order(
        self,
        agent: AgentHandle,
        what: str,
        body: Any,
        arrays: Sequence[np.ndarray] = (),
        *,
        timeout_s: float | None = None,
    ) -> Answer:
        """Tell an agent to do something. Raises what has gone wrong before.

        timeout_s   how long it may show no progress: by default, what an exchange of so many bytes may take
        """
        if self.error is not None:
            raise self.error
        if self._closing:
            raise UsageError(f"the job is closed: {agent} cannot be asked to {what}")
        payload = pack(body, arrays)
        nbytes = sum(len(p) for p in payload)
        limit = self.timeouts.for_bytes(nbytes) if timeout_s is None else timeout_s
        with self.changed:
            self._request += 1
            request = self._request
            answer = self._answers[request] = Answer(self, agent, what, limit)
        try:
            agent.channel.send(Order(request, what), payload, timeout_s=self.timeouts.for_bytes(nbytes))
        except RainshedError as error:
            raise self.cause(error) from None
        answer.asked = time.monotonic()
        return answer

    def ask(
        self, agents: Iterable[AgentHandle], what: str, body: Any, kind: type[T], *, timeout_s: float | None = None
    ) -> list[T]:
        """The same order to several agents at once; their answers in order."""
        answers = [self.order(agent, what, body, timeout_s=timeout_s) for agent in agents]
        return [answer.get(kind)[0] for answer in answers]

    def cause(self, error: RainshedError) -> RainshedError:
        """What lies behind an error: the loss of a process, if that explains it."""
        if isinstance(error, PeerLostError | StallError):
            with self.changed:
                self.changed.wait_for(lambda: self.error is not None, GRACE_S)
        return self.error if self.error is not None else error

    def fail(self, error: RainshedError) -> None:
        """The job cannot go on: whoever waits, is told."""
        with self.changed:
            if not self._closing:
                self.error = self.error or error
            self.changed.notify_all()

    def close(self, reason: str = "the job is over") -> None:
        """Tell every agent to leave, and end all threads; safe to call twice."""
        with self.changed:
            first, self._closing = not self._closing, True
            self.changed.notify_all()
        if first:
            for agent in self.agents:
                try:
                    agent.channel.send(Stop(reason[:8000]), timeout_s=self.timeouts.handshake_s)
                except RainshedError:
                    continue  # it has gone already
        self._beat.set()
        self.endpoint.close()
        if self._watch is not threading.current_thread():
            self._watch.join()

    def _watch_beats(self) -> None:
        """An agent whose process stands still is lost, though its connection lives."""
        while not self._beat.wait(self.timeouts.heartbeat_s):
            self.listening.tick(time.monotonic())
            for agent in tuple(self.agents):
                silent_s = self.listening.silent_s(max(agent.last_beat, agent.channel.counters.last_heard))
                if silent_s > self.timeouts.dead_s:
                    self.fail(PeerLostError(f"lost {agent}: nothing was heard from it for {silent_s:.1f} s"))

    # -- the handler --------------------------------------------------------------------------------------------------
    def connected(self, channel: Channel) -> None:
        if channel.peer.role != "agent":
            raise ProtocolError(f"{channel.peer} is no worker: the coordinator talks to workers only")

    def buffer(self, channel: Channel, message: Message, nbytes: int) -> memoryview:
        if nbytes and not isinstance(message, Done | Report):
            raise ProtocolError(f"{type(message).__name__} has no payload; {nbytes} bytes came")
        if isinstance(message, Done) and message.request not in self._answers:
            raise ProtocolError(f"an answer to the order {message.request}, which nobody gave")
        if (agent := self._by_channel.get(channel)) is not None:
            agent.answering = bool(nbytes)
        if nbytes > MAX_ANSWER_NBYTES or (isinstance(message, Report) and nbytes > 1 << 20):
            raise ProtocolError(f"{type(message).__name__} with a payload of {nbytes} bytes")
        return memoryview(bytearray(nbytes))

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        if isinstance(message, Join):
            self._joined(channel, message)
            return
        agent = self._by_channel.get(channel)
        if agent is None:
            raise ProtocolError(f"{type(message).__name__} before Join")
        if agent.answering:
            agent.moved, agent.answering = time.monotonic(), False
        match message:
            case Done(request=request):
                self._answered(request, payload, None)
            case Refused(request=request, code=code, text=text):
                self._answered(request, None, _BY_CODE.get(code, RainshedError)(text))
            case Heartbeat(step=step, op=op):
                if agent.beat(step, op) and self.on_work is not None:
                    self.on_work(agent)
            case Report(kind=kind):
                agent.moved = time.monotonic()
                if self.on_report is not None:
                    self.on_report(agent, kind, payload)
            case Failed(code=code, text=text):
                self.fail(_BY_CODE.get(code, RainshedError)(f"{agent}: {text}"))
            case _:
                raise ProtocolError(f"{type(message).__name__} to the coordinator")

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        agent = self._by_channel.get(channel)
        if agent is None or self._closing:
            return
        why = "it left" if error is None else error.message
        self.fail(PeerLostError(f"lost {agent}: {why}"))

    def _joined(self, channel: Channel, join: Join) -> None:
        with self.changed:
            agent = AgentHandle(channel, join)
            self._by_channel[channel] = agent
            self.agents.append(agent)
            self.changed.notify_all()

    def _answered(self, request: int, payload: memoryview | None, error: RainshedError | None) -> None:
        with self.changed:
            answer = self._answers.pop(request, None)
            if answer is None:
                raise ProtocolError(f"an answer to the order {request}, which nobody gave")
            answer._payload, answer._error = payload, error
            self.changed.notify_all()
