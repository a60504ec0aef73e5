"""What an agent becomes and does for any job: a machine of a plan, or a shard of the parameter server."""

from __future__ import annotations

import hmac
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final

import cloudpickle
import numpy as np

from rainshed.compiler.load import plan_from_json
from rainshed.compiler.plan import Plan, Program
from rainshed.ops.access import Box
from rainshed.ops.errors import AuthError, PlanError, RainshedError, UsageError
from rainshed.runtime.auth import Identity
from rainshed.runtime.cluster.agent import Agent, Task
from rainshed.runtime.cluster.measuring import MEASURING_TASKS
from rainshed.runtime.cluster.orders import (
    Address,
    Arrived,
    BeMachine,
    BeServer,
    Clock,
    Code,
    Connect,
    InitVariables,
    Moments,
    Nothing,
    Parts,
    RunStep,
    TimeStep,
    Told,
)
from rainshed.runtime.documents import unpack
from rainshed.runtime.executor import Executor, Options
from rainshed.runtime.memory import peak_memory_nbytes
from rainshed.runtime.params.server import ParamServer
from rainshed.runtime.params.shard import Shard, config_from_json
from rainshed.runtime.peers import Peers
from rainshed.runtime.trace import Recorder
from rainshed.runtime.traced import machine_trace
from rainshed.runtime.transport import Endpoint, listen

Answer = tuple[Any, Sequence[np.ndarray]]
NOTHING: Final[Answer] = (Nothing(), ())


@dataclass(eq=False)
class Machine:
    """One machine of a plan, running in this process."""

    plan: Plan
    program: Program
    group: str
    executor: Executor
    peers: Peers
    endpoint: Endpoint
    recorder: Recorder | None
    fed: Mapping[tuple[str, Box], np.ndarray] = field(default_factory=dict)  # in the last step

    def feeds(self) -> dict[str, Any]:
        return {name: lambda box, name=name: self.fed[name, box] for name, _ in self.fed}

    def abort(self, error: RainshedError) -> None:
        self.executor.abort(error)

    def close(self) -> None:
        self.endpoint.close()
        self.peers.close()
        self.executor.close()

    @property
    def title(self) -> str:
        return f"{self.group}/{self.program.machine}" if self.group else self.program.machine


def machine_of(agent: Agent) -> Machine:
    found = agent.roles.get("machine")
    if not isinstance(found, Machine):
        raise UsageError("this worker is no machine of a plan yet")
    return found


def take_code(agent: Agent, payload: memoryview) -> Answer:
    """The user's own ops. Not a byte of them is read before the proof holds (DESIGN, security)."""
    body, _ = unpack(payload, Code)
    try:
        pickled, mac = bytes.fromhex(body.pickled), bytes.fromhex(body.mac)
    except ValueError:
        raise AuthError("the job's code is not hexadecimal") from None
    if not hmac.compare_digest(code_mac(agent.token, pickled), mac):
        raise AuthError("the job's code does not come from one who knows the token")
    agent.ops.update(cloudpickle.loads(pickled))
    return NOTHING


def code_mac(token: bytes, pickled: bytes) -> bytes:
    return hmac.digest(token, b"code of the job" + pickled, "sha256")


def pack_code(token: bytes, ops: Mapping[str, Any]) -> Code:
    """The user's own ops, ready to travel: with the user's own modules, which the workers' computers need not have."""
    own = [module for module in tuple(sys.modules.values()) if _is_users(module)]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        pickled = cloudpickle.dumps(dict(ops))
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)
    return Code(code_mac(token, pickled).hex(), pickled.hex())


def _is_users(module: ModuleType) -> bool:
    """Whether a module is neither Python's, nor installed, nor ours."""
    file = getattr(module, "__file__", None)
    name = module.__name__
    if not file or name == "__main__" or name.partition(".")[0] == "rainshed" or sys.modules.get(name) is not module:
        return False
    installed = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    return not any(Path(file).is_relative_to(place) for place in installed)


def be_machine(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, BeMachine)
    if "machine" in agent.roles:
        raise UsageError("this worker is a machine already")
    plan = plan_from_json(bytes(body.plan), agent.ops)
    program = plan.program(body.machine)
    recorder = Recorder() if body.trace else None
    prefix = f"{body.group}/" if body.group else ""
    peers = Peers(program, agent.timeouts, prefix=prefix)
    options = Options(threads=body.threads, timeouts=agent.timeouts, recorder=recorder)
    if body.group:  # a replica that stops to compile while others go on would push gradients of old parameters
        options = replace(options, compile_at=0)
    executor = Executor(program, ops=agent.ops, peers=peers, options=options)
    identity = Identity("machine", prefix + program.machine, agent.options.job, 0, plan.hash)
    endpoint = listen(agent.role_uri, identity, agent.token, peers, agent.timeouts)
    machine = Machine(plan, program, body.group, executor, peers, endpoint, recorder)
    agent.roles["machine"] = machine
    agent.on_leave(machine.close)
    return Address(endpoint.address), ()


def be_server(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, BeServer)
    if "server" in agent.roles:
        raise UsageError("this worker is a parameter server already")
    config = config_from_json(bytes(body.config))
    server = ParamServer(Shard(config), agent.timeouts)
    identity = Identity("server", f"s{config.number}", agent.options.job)
    endpoint = listen(agent.role_uri, identity, agent.token, server, agent.timeouts)
    agent.roles["server"] = server
    agent.on_leave(endpoint.close)
    return Address(endpoint.address), ()


def be_free(agent: Agent, payload: memoryview) -> Answer:
    """Give up what this worker has become, so that it can become something else."""
    unpack(payload, Nothing)
    agent.leave()
    agent.roles.clear()
    return NOTHING


def connect(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, Connect)
    machine = machine_of(agent)
    missing = [n for n in machine.peers.neighbours.all if n not in body.addresses]
    if missing:
        raise PlanError(f"{machine.title} was not told where {', '.join(missing)} is")
    machine.peers.connect(machine.endpoint, body.addresses)
    return NOTHING


def init_variables(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, InitVariables)
    machine_of(agent).executor.init_variables(body.seed, partial(agent.at_work, "first values"))
    return NOTHING


def put_variables(agent: Agent, payload: memoryview) -> Answer:
    body, arrays = unpack(payload, Parts)
    executor = machine_of(agent).executor
    for (name, box), array in zip(body.parts, arrays, strict=True):
        executor.set_variable(name, box, array)
    return NOTHING


def get_variables(agent: Agent, payload: memoryview) -> Answer:
    body, _ = unpack(payload, Parts)
    executor = machine_of(agent).executor
    return body, [executor.get_variable(name, box) for name, box in body.parts]


def run_step(agent: Agent, payload: memoryview) -> Answer:
    body, arrays = unpack(payload, RunStep)
    machine = machine_of(agent)
    machine.fed = {(name, box): array for (name, box), array in zip(body.feeds, arrays, strict=True)}
    agent.progress = (body.step, "run")
    outputs = machine.executor.run(body.step, machine.feeds(), copy=False)
    return Parts(tuple(outputs)), list(outputs.values())


def time_step(agent: Agent, payload: memoryview) -> Answer:
    """All machines of a plan are told the same moment, each on its own clock: so the orders' own way gives none a late start."""
    body, _ = unpack(payload, TimeStep)
    machine = machine_of(agent)
    agent.progress = (body.step, "run")
    left_s = (body.start_ns - time.perf_counter_ns()) / 1e9
    if left_s > 0:
        agent.stopping.wait(min(left_s, agent.timeouts.rpc_s))
    start_ns, used_s = time.perf_counter_ns(), time.process_time()
    machine.executor.run(body.step, machine.feeds(), copy=False)
    return Moments(start_ns, time.perf_counter_ns(), time.process_time() - used_s), ()


def tell(agent: Agent, payload: memoryview) -> Answer:
    unpack(payload, Nothing)
    machine = agent.roles.get("machine")
    sent = dict(machine.peers.sent_nbytes) if isinstance(machine, Machine) else {}
    return Told(sent, peak_memory_nbytes()), ()


def tell_arrived(agent: Agent, payload: memoryview) -> Answer:
    unpack(payload, Nothing)
    seen = machine_of(agent).peers.arrived
    return Arrived(tuple((key, messages, nbytes) for key, (messages, nbytes) in seen.items())), ()


def get_trace(agent: Agent, payload: memoryview) -> Answer:
    unpack(payload, Nothing)
    machine = machine_of(agent)
    if machine.recorder is None:
        raise UsageError(f"{machine.title} records no trace")
    trace = machine_trace(machine.program, machine.plan.transfers, machine.recorder, group=machine.group)
    return NOTHING[0], [np.frombuffer(trace.to_bytes(), np.uint8)]


def clock(agent: Agent, payload: memoryview) -> Answer:
    unpack(payload, Nothing)
    return Clock(time.perf_counter_ns()), ()


ROLE_TASKS: Final[Mapping[str, Task]] = MappingProxyType(
    {
        "code": take_code,
        "be machine": be_machine,
        "be server": be_server,
        "be free": be_free,
        "connect": connect,
        "init variables": init_variables,
        "put variables": put_variables,
        "get variables": get_variables,
        "run step": run_step,
        "time step": time_step,
        "tell": tell,
        "tell arrived": tell_arrived,
        "trace": get_trace,
        "clock": clock,
        **MEASURING_TASKS,
    }
)
