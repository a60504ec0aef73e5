"""Rules, layouts and running servers and clients for the tests of the parameter server."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from rainshed.ops.elementwise import sqrt, square
from rainshed.ops.update import UpdateRule
from rainshed.runtime.auth import Identity
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.params.client import ClientConfig, ParamClient
from rainshed.runtime.params.layout import Layout, Owned, Part, assign
from rainshed.runtime.params.rule import rule_of
from rainshed.runtime.params.server import ParamServer
from rainshed.runtime.params.shard import Shard, ShardConfig
from rainshed.runtime.transport import Endpoint, listen

TOKEN = bytes(range(32))
QUICK = Timeouts(rpc_s=2.0, step_s=10.0, start_s=10.0)

sgd = UpdateRule("sgd", lambda w, dw, slots, step: (w - dw * 0.5, {}), {})
ledger_rule = UpdateRule("ledger", lambda w, dw, slots, step: (w - dw * -1.0, {}), {})


def _adagrad(w, dw, slots, step):
    seen = slots["seen"] + square(dw)
    return w - dw * 0.1 / (sqrt(seen) + 1e-8), {"seen": seen}


adagrad = UpdateRule("adagrad", _adagrad, {"seen": 0.0})


def part(name: str, *shape: int, dtype: str = "f32") -> Part:
    return Part(name, dtype, tuple((0, n) for n in shape))


def layout_of(parts: Sequence[Part], servers: int) -> Layout:
    return assign([Owned(p, "m0") for p in parts], servers)


def config_of(
    parts: Sequence[Part], rule: UpdateRule = sgd, servers: int = 1, number: int = 0, **more: object
) -> ShardConfig:
    return ShardConfig(number, layout_of(parts, servers), rule_of(rule, {p.dtype for p in parts}), **more)


def payload_of(*arrays: np.ndarray) -> memoryview:
    return memoryview(bytearray(b"".join(a.tobytes() for a in arrays)))


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """For what threads do soon and tell nobody."""
    pause, end = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        pause.wait(0.002)


class Cluster:
    """Servers and clients over one transport, in this process."""

    def __init__(self, scheme: str, timeouts: Timeouts = QUICK) -> None:
        self.scheme, self.timeouts = scheme, timeouts
        self.endpoints: list[Endpoint] = []
        self.clients: list[ParamClient] = []

    def listen(self, role: str, name: str, handler: object, incarnation: int = 1, uri: str = "") -> Endpoint:
        uri = uri or (f"inproc://{name}" if self.scheme == "inproc" else "tcp://127.0.0.1:0")
        identity = Identity(role=role, name=name, job="job", incarnation=incarnation)
        endpoint = listen(uri, identity, TOKEN, handler, self.timeouts)
        self.endpoints.append(endpoint)
        return endpoint

    def serve(
        self, parts: Sequence[Part], rule: UpdateRule, servers: int = 1, kind: type = ParamServer, **more: object
    ) -> tuple[list[ParamServer], dict[int, str]]:
        """One server per shard, and their addresses."""
        configs = [config_of(parts, rule, servers, number, **more) for number in range(servers)]
        made = [kind(Shard(config), self.timeouts) for config in configs]
        return made, {i: self.listen("server", f"s{i}", server).address for i, server in enumerate(made)}

    def client(
        self,
        name: str,
        layout: Layout,
        addresses: dict[int, str],
        parts: Sequence[Part],
        incarnation: int = 1,
        **more: object,
    ) -> ParamClient:
        config = ClientConfig(name=name, layout=layout, parts=tuple(parts), addresses=addresses, **more)
        client = ParamClient(config, self.timeouts)
        self.clients.append(client)
        client.start(self.listen("machine", name, client, incarnation))
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for endpoint in reversed(self.endpoints):
            endpoint.close()


@contextmanager
def cluster(scheme: str, timeouts: Timeouts = QUICK) -> Iterator[Cluster]:
    """A cluster that leaves no thread behind."""
    before = set(threading.enumerate())
    made = Cluster(scheme, timeouts)
    try:
        yield made
    finally:
        made.close()
    left = [t for t in threading.enumerate() if t not in before and t.is_alive()]
    assert not left, f"threads left: {[t.name for t in left]}"
