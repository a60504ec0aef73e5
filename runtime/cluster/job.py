"""A job: a coordinator, its workers however they came to be, and the plans and servers that they have become.

Back ends: "processes" spawns one process per role on this computer; "threads" runs the same workers as threads of this process;
"join" waits for workers that were started by hand, on any host, with `rainshed worker --join`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

import numpy as np

from rainshed.compiler.plan import Plan
from rainshed.ops import CATALOGUE
from rainshed.ops.access import Box, box_shape
from rainshed.ops.errors import PeerLostError, RainshedError, UsageError
from rainshed.ops.op import Op
from rainshed.runtime.auth import new_token
from rainshed.runtime.cluster.agent import Agent, AgentOptions, AtOnce, Task, raw_json
from rainshed.runtime.cluster.coordinator import AgentHandle, Coordinator, OnReport, OnWork
from rainshed.runtime.cluster.deployed import Deployed, slices_of
from rainshed.runtime.cluster.orders import (
    Address,
    Arrived,
    BeMachine,
    BeServer,
    Clock,
    Connect,
    InitVariables,
    Moments,
    Nothing,
    Parts,
    RunStep,
    TimeStep,
    Told,
)
from rainshed.runtime.cluster.processes import Processes
from rainshed.runtime.cluster.roles import ROLE_TASKS, pack_code
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.params.shard import ShardConfig
from rainshed.runtime.trace import ClockSample, MachineTrace, clock_offset_ns, write_trace

Backend = Literal["processes", "threads", "join"]
BACKENDS: Final = ("processes", "threads", "join")
Array = np.ndarray[Any, Any]
LEAD_S: Final = 0.01  # between an order to begin at a moment, and that moment


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """
    tasks      that workers can do besides those of roles.py (threads only: processes have the engine's)
    ops        the catalogue, and the user's own: they are sent to the workers
    listen     where a "join" job waits for its workers
    token      of a "join" job; others make their own
    """

    backend: Backend = "processes"
    tasks: Mapping[str, Task] = field(default_factory=dict)
    at_once: Mapping[str, AtOnce] = field(default_factory=dict)
    ops: Mapping[str, Op] = field(default_factory=lambda: CATALOGUE)
    timeouts: Timeouts = field(default_factory=Timeouts)
    on_report: OnReport | None = None
    on_work: OnWork | None = None
    listen: str = "tcp://127.0.0.1:0"
    token: bytes | None = field(default=None, repr=False)
    name: str = "job"
    on_wait: Callable[[str, int], None] | None = None  # told the address, and how many workers are waited for


class Job:
    """`count` workers, joined and ready. Use it as a context manager, or close it: then no process or thread is left.

    Raises  UsageError for an unknown back end; StallError if workers do not come
    """

    def __init__(self, count: int, options: JobOptions) -> None:
        if options.backend not in BACKENDS:
            raise UsageError(f"there is no back end {options.backend!r}", known=", ".join(BACKENDS))
        self.options = options
        self.timeouts = options.timeouts
        token = options.token or new_token()
        uri = "inproc://coordinator" if options.backend == "threads" else options.listen
        self._processes: Processes | None = None
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.coordinator = Coordinator(
            uri, token, job=options.name, timeouts=self.timeouts, on_report=options.on_report
        )
        self.coordinator.on_work = options.on_work
        try:
            self._start(count, token)
            check = self._processes.check if self._processes is not None else None
            self.agents = self.coordinator.wait_for(count, check=check)[:count]
            if options.backend == "join":  # so that a cluster file means the same worker by m0 each time
                self.agents.sort(key=lambda agent: agent.joined.name)
            self._send_code(token)
        except BaseException:
            self.close()
            raise

    def _start(self, count: int, token: bytes) -> None:
        address, name = self.coordinator.address, self.options.name
        if self.options.backend == "processes":
            self._processes = Processes(count, address, token, job=name)
        elif self.options.backend == "threads":
            for i in range(count):
                options = AgentOptions(address, name, f"worker {i}", "inproc://worker")
                tasks = {**ROLE_TASKS, **self.options.tasks}
                agent = Agent(
                    options,
                    token,
                    tasks=tasks,
                    at_once=self.options.at_once,
                    ops=self.options.ops,
                    timeouts=self.timeouts,
                )
                thread = threading.Thread(target=_run_agent, args=(agent,), name=f"rainshed worker {i}", daemon=True)
                self._threads.append(thread)
                thread.start()
        elif self.options.on_wait is not None:
            self.options.on_wait(address, count)

    def _send_code(self, token: bytes) -> None:
        own = {name: op for name, op in self.options.ops.items() if CATALOGUE.get(name) is not op}
        if own and self.options.backend != "threads":
            self.coordinator.ask(self.agents, "code", pack_code(token, own), Nothing)

    @property
    def pids(self) -> list[int]:
        return [agent.joined.pid for agent in self.agents]

    def serve(self, configs: Sequence[ShardConfig], agents: Sequence[AgentHandle]) -> dict[int, str]:
        """Make each agent the server of one shard; shard -> address."""
        answers = []
        for config, agent in zip(configs, agents, strict=True):
            agent.title = f"server s{config.number}"
            answers.append(self.coordinator.order(agent, "be server", BeServer(raw_json(config))))
        return {config.number: answer.get(Address)[0].address for config, answer in zip(configs, answers, strict=True)}

    def deploy(self, plan: Plan, agents: Sequence[AgentHandle], *, group: str = "", trace: bool = False) -> Deployment:
        """Make the agents the machines of a plan, in order, and connect them."""
        machines = dict(zip(plan.machines, agents, strict=True))
        cores = {row["name"]: float(row.get("cores", 1)) for row in plan.cluster["machine"]}
        whole = raw_json(plan)
        answers = {}
        for name, agent in machines.items():
            agent.title = f"machine {group}/{name}" if group else f"machine {name}"
            order = BeMachine(whole, name, group, max(1, int(cores[name])), trace)
            answers[name] = self.coordinator.order(agent, "be machine", order, timeout_s=self.timeouts.start_s)
        addresses = {name: answer.get(Address)[0].address for name, answer in answers.items()}
        deployment = Deployment(self, plan, machines, group)
        self.coordinator.ask(agents, "connect", Connect(addresses), Nothing, timeout_s=self.timeouts.start_s)
        return deployment

    def explain(self, error: RainshedError) -> RainshedError:
        """The error, with how the process ended if it was one of ours."""
        if isinstance(error, PeerLostError) and self._processes is not None:
            for agent in self.coordinator.agents:
                fate = self._processes.fate(agent.joined.pid) if str(agent) in error.message else ""
                if fate:
                    return PeerLostError(f"{agent} {fate}", **error.detail)
        return error

    def close(self) -> None:
        """End all workers; safe to call twice."""
        self._closed = True
        if self._processes is not None:
            self._processes.drop({agent.joined.pid for agent in self.coordinator.agents})
        self.coordinator.close()
        if self._processes is not None:
            self._processes.close()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _run_agent(agent: Agent) -> None:
    try:
        agent.run()
    except RainshedError:
        return  # the coordinator has been told, or has gone


class Deployment(Deployed):
    """A plan on the workers of a job: one replica."""

    def __init__(self, job: Job, plan: Plan, machines: Mapping[str, AgentHandle], group: str) -> None:
        super().__init__(plan)
        self.job, self.machines, self.group = job, machines, group
        self._offsets: dict[AgentHandle, int] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Process of each machine."""
        return {name: agent.joined.pid for name, agent in self.machines.items()}

    @property
    def agents(self) -> list[AgentHandle]:
        return list(self.machines.values())

    def init(self, seed: int) -> None:
        """Every machine fills its own parts of the variables."""
        timeout_s = self.job.timeouts.start_s
        self.job.coordinator.ask(self.agents, "init variables", InitVariables(seed), Nothing, timeout_s=timeout_s)

    def run(self, step: int, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """One step on whole arrays by name; the outputs, put together.

        Raises  DataError for feeds that do not fit the plan
        """
        arrays = self.checked(feeds)
        timeout_s = 2 * self.job.timeouts.step_s
        answers = []
        for program in self.plan.programs:
            parts = tuple((f.name, f.box) for f in program.feeds)
            cut = [np.asarray(arrays[name][slices_of(box)]) for name, box in parts]
            agent = self.machines[program.machine]
            answers.append(
                self.job.coordinator.order(agent, "run step", RunStep(step, parts), cut, timeout_s=timeout_s)
            )
        wholes: dict[str, Array] = {}
        shapes = {(o.name, o.box): o.whole for p in self.plan.programs for o in p.outputs}
        for answer in answers:
            body, values = answer.get(Parts)
            for (name, box), value in zip(body.parts, values, strict=True):
                if name not in wholes:
                    wholes[name] = np.empty(shapes[name, box], value.dtype)
                wholes[name][slices_of(box)] = value
        return wholes

    def time_step(self, step: int) -> float:
        """Seconds of one more step, on what was fed last: from the moment at which all machines begin to the last one's end."""
        moments = self.moments(step)
        return (max(m.end_ns for m in moments) - min(m.start_ns for m in moments)) / 1e9

    def moments(self, step: int) -> list[Moments]:
        """One more step, on what was fed last, which all machines begin at once; of each, on the clock of this process."""
        coordinator = self.job.coordinator
        offsets_ns = [self._offset_ns(agent) for agent in self.agents]
        start_ns = time.perf_counter_ns() + int(LEAD_S * 1e9)
        answers = [
            coordinator.order(
                agent, "time step", TimeStep(step, start_ns - offset_ns), timeout_s=2 * self.job.timeouts.step_s
            )
            for agent, offset_ns in zip(self.agents, offsets_ns, strict=True)
        ]
        told = [answer.get(Moments)[0] for answer in answers]
        return [
            Moments(m.start_ns + offset_ns, m.end_ns + offset_ns, m.core_s)
            for m, offset_ns in zip(told, offsets_ns, strict=True)
        ]

    def _offset_ns(self, agent: AgentHandle) -> int:
        """What to add to an agent's clock to get the one of this process; asked once."""
        if agent not in self._offsets:
            self._offsets[agent] = clock_offset_ns(self._samples(agent))[0]
        return self._offsets[agent]

    def release(self) -> None:
        """Let the workers go: they can become machines of another plan. This deployment is over."""
        self.job.coordinator.ask(self.agents, "be free", Nothing(), Nothing)

    def get(self, machine: str, parts: Sequence[tuple[str, Box]]) -> list[Array]:
        """The values of parts of variables that one machine owns."""
        answer = self.job.coordinator.order(
            self.machines[machine], "get variables", Parts(tuple(parts)), timeout_s=self._long(parts, machine)
        )
        return answer.get(Parts)[1]

    def put(self, machine: str, parts: Sequence[tuple[str, Box]], values: Sequence[Array]) -> None:
        """Give parts of variables their values."""
        self.job.coordinator.order(self.machines[machine], "put variables", Parts(tuple(parts)), values).get(Nothing)

    def _long(self, parts: Sequence[tuple[str, Box]], machine: str) -> float:
        return self.job.timeouts.for_bytes(sum(8 * int(np.prod(box_shape(box))) for _, box in parts))

    def bytes_between(self) -> dict[tuple[str, str], int]:
        """Payload bytes that crossed for each (from, to), counted where they were sent."""
        told = self.job.coordinator.ask(self.agents, "tell", Nothing(), Told)
        return {
            (name, to): nbytes
            for name, one in zip(self.machines, told, strict=True)
            for to, nbytes in one.sent_nbytes.items()
            if nbytes
        }

    def arrived(self) -> dict[int, tuple[int, int]]:
        """Key of each transfer -> messages and payload bytes that have crossed, counted where they came."""
        told = self.job.coordinator.ask(self.agents, "tell arrived", Nothing(), Arrived)
        return {key: (messages, nbytes) for one in told for key, messages, nbytes in one.transfers}

    def peak_memory(self) -> dict[str, int]:
        """The most memory that each machine's process has held, in bytes."""
        told = self.job.coordinator.ask(self.agents, "tell", Nothing(), Told)
        return {name: one.peak_memory_nbytes for name, one in zip(self.machines, told, strict=True)}

    def traces(self) -> list[MachineTrace]:
        """What every machine did, on the clock of this process."""
        found = []
        for agent in self.agents:
            offset_ns, _ = clock_offset_ns(self._samples(agent))
            _, (raw,) = self.job.coordinator.order(agent, "trace", Nothing(), timeout_s=self.job.timeouts.start_s).get(
                Nothing
            )
            trace = MachineTrace.from_bytes(raw.tobytes())
            found.append(_shifted(trace, offset_ns))
        return found

    def _samples(self, agent: AgentHandle, count: int = 8) -> list[ClockSample]:
        samples = []
        for _ in range(count):
            asked = time.perf_counter_ns()
            now, _ = self.job.coordinator.order(agent, "clock", Nothing()).get(Clock)
            samples.append(ClockSample(asked, now.now_ns, time.perf_counter_ns()))
        return samples

    def write_trace(self, path: str) -> int:
        """Write the trace of all machines as Chrome trace JSON; the number of its events."""
        return write_trace(path, self.traces())


def _shifted(trace: MachineTrace, offset_ns: int) -> MachineTrace:
    return MachineTrace(**{**{f: getattr(trace, f) for f in trace.__struct_fields__}, "offset_ns": offset_ns})
