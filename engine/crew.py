"""The processes of a training and their parts in it: replicas with the plan and the data, servers with the parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rainshed.compiler.plan import Plan
from rainshed.engine.data import ArrayData, Data
from rainshed.engine.machine_side import AT_ONCE, TRAINING_TASKS, Exchange, JoinServer, LoadData, inputs_of
from rainshed.engine.methods import Downpour, TrainingOptions
from rainshed.engine.saving import SAVING_TASKS, ServerState
from rainshed.ops.op import Op
from rainshed.ops.update import UpdateRule
from rainshed.runtime.cluster.coordinator import AgentHandle, OnReport, OnWork
from rainshed.runtime.cluster.job import Deployment, Job, JobOptions
from rainshed.runtime.cluster.orders import Nothing
from rainshed.runtime.params.layout import assign, trainable_parts
from rainshed.runtime.params.rule import Rule, rule_of
from rainshed.runtime.params.shard import ShardConfig
from rainshed.runtime.trace import MachineTrace


class Crew:
    """Workers that have joined; `deploy` gives them their parts. Close it, then none is left.

    state    what the servers hold; None without servers
    """

    def __init__(
        self, plan: Plan, options: TrainingOptions, ops: Mapping[str, Op], on_report: OnReport, on_work: OnWork | None
    ) -> None:
        self.plan, self.options, self.method = plan, options, options.method
        self.replicas: list[Deployment] = []
        self.state: ServerState | None = None
        of_replicas = len(plan.machines) * self.method.replicas
        self.job = Job(
            of_replicas + self.method.servers,
            JobOptions(
                backend=options.backend,
                tasks={**TRAINING_TASKS, **SAVING_TASKS},
                at_once=AT_ONCE,
                ops=ops,
                timeouts=options.timeouts,
                on_report=on_report,
                on_work=on_work,
                listen=options.listen,
                token=options.token,
                on_wait=options.on_wait,
            ),
        )
        self.servers = self.job.agents[of_replicas:]

    # -- parts --------------------------------------------------------------------------------------------------------
    def deploy(self, data: Data, rule: UpdateRule) -> None:
        """Machines and servers get what they need to train; variables have no values yet."""
        per = len(self.plan.machines)
        method = self.method
        served = self._serve(method, rule) if isinstance(method, Downpour) else None
        for r in range(method.replicas):
            group = f"r{r}" if method.replicas > 1 else ""
            mine = self.job.agents[per * r : per * (r + 1)]
            self.replicas.append(self.job.deploy(self.plan, mine, group=group, trace=self.options.trace))
        if isinstance(data, ArrayData):
            self._load(data)
        if served is not None:
            join, moved_by = served
            self.ask([agent for replica in self.replicas for agent in replica.agents], "join server", join)
            self.state = ServerState(self.replicas[0], self.servers, join.layout, moved_by)

    def _serve(self, method: Downpour, rule: UpdateRule) -> tuple[JoinServer, Rule]:
        """Make the servers hold the parameters; how machines reach them, and what moves the parameters."""
        parts = trainable_parts(self.plan)
        layout, moved_by = assign(parts, method.servers), rule_of(rule, [owned.part.dtype for owned in parts])
        configs = [
            ShardConfig(number=s, layout=layout, rule=moved_by, max_staleness=method.max_staleness)
            for s in range(method.servers)
        ]
        addresses = {str(shard): address for shard, address in self.job.serve(configs, self.servers).items()}
        return JoinServer(layout, addresses, method.n_push, method.n_fetch), moved_by

    def _load(self, data: ArrayData) -> None:
        """Each machine gets what its replica reads of the data."""
        fields = inputs_of(self.plan.programs)
        inputs = tuple((name, f.dtype.name, f.shape) for name, f in fields.items())
        for r, replica in enumerate(self.replicas):
            mine = data.shard(r, self.method.replicas)
            everything = np.arange(mine.count)
            arrays = {name: mine.take(everything, name) for name in fields}
            spec = LoadData(inputs=inputs, names=tuple(arrays))
            answers = [
                self.job.coordinator.order(agent, "load data", spec, list(arrays.values())) for agent in replica.agents
            ]
            for answer in answers:
                answer.get(Nothing)

    def begin(self) -> None:
        """First values: each machine of the first replica fills its own parts; with a server, they are its first values."""
        for replica in self.replicas:
            replica.init(self.options.seed)
        if self.state is not None:
            self.ask(self.replicas[0].agents, "exchange", Exchange("put"))

    def pull(self, replicas: Sequence[Deployment]) -> None:
        """Bring the servers' parameters, if there are servers, to the machines of these replicas."""
        for replica in replicas if self.state is not None else ():
            self.ask(replica.agents, "exchange", Exchange("pull"))

    def ask(self, agents: Sequence[AgentHandle], what: str, body: Any) -> None:
        """The same order to all of them. An exchange with a server tells nothing on its way: it has the time of all variables."""
        timeouts = self.options.timeouts
        nbytes = sum(p.values[v.value].nbytes for p in self.plan.programs for v in p.variables)
        limit_s = max(timeouts.start_s, timeouts.for_bytes(nbytes))
        self.job.coordinator.ask(agents, what, body, Nothing, timeout_s=limit_s)

    # -- what there is ------------------------------------------------------------------------------------------------
    @property
    def pids(self) -> dict[str, int]:
        """Process of each role: "r0/m1", "s0"."""
        found = {}
        for replica in self.replicas:
            for name, agent in replica.machines.items():
                found[f"{replica.group}/{name}" if replica.group else name] = agent.joined.pid
        found.update({f"s{i}": agent.joined.pid for i, agent in enumerate(self.servers)})
        return found

    def traces(self) -> list[MachineTrace]:
        """What every machine did, replica by replica, on the clock of this process."""
        return [trace for replica in self.replicas for trace in replica.traces()]

    def close(self) -> None:
        """End all workers; safe to call twice."""
        self.job.close()
