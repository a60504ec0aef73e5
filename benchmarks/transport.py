"""Round trips over the transports: a payload to another thread (inproc) or process (tcp) and back, medians.

    python benchmarks/transport.py [--json] [--seconds 1]

Row `raw` is the floor: the same bytes over a bare socket between two processes, with no frames, checksums or threads.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from rainshed.ops.errors import RainshedError
from rainshed.runtime.auth import Identity, new_token
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.messages import Message, Value
from rainshed.runtime.transport import Channel, Endpoint, listen

SIZES = (8, 64 * 2**10, 4 * 2**20)
TIMEOUTS = Timeouts()


class Echo:
    """Sends every payload back; receives into one buffer per size."""

    def __init__(self) -> None:
        self.buffers: dict[int, memoryview] = {}

    def connected(self, channel: Channel) -> None:
        """The first frame says enough."""

    def buffer(self, channel: Channel, message: Message, nbytes: int) -> memoryview:
        if nbytes not in self.buffers:
            self.buffers[nbytes] = memoryview(bytearray(nbytes))
        return self.buffers[nbytes]

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        channel.send(message, [payload], timeout_s=5)

    def lost(self, channel: Channel, error: RainshedError | None) -> None:
        if error is not None:
            raise error


class Caller(Echo):
    """Waits for what comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.back = threading.Lock()
        self.back.acquire()

    def received(self, channel: Channel, message: Message, payload: memoryview) -> None:
        self.back.release()


def serve(token: bytes, pipe: Connection) -> None:
    """The other process of `tcp`."""
    endpoint = listen("tcp://", Identity("server", "echo", "benchmark"), token, Echo(), TIMEOUTS)
    pipe.send(endpoint.address)
    pipe.recv()
    endpoint.close()


def serve_raw(pipe: Connection) -> None:
    """The other process of `raw`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        sock, _ = server.accept()
        with sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (nbytes := pipe.recv()) is not None:
                view = memoryview(bytearray(nbytes))
                while sock.recv_into(view[:1], 1, socket.MSG_PEEK) and view[0] != ord("."):
                    exactly(sock, view)
                    sock.sendall(view)
                sock.recv(1)


def exactly(sock: socket.socket, view: memoryview) -> None:
    got = 0
    while got < len(view):
        got += sock.recv_into(view[got:], 0, socket.MSG_WAITALL)


@contextmanager
def other_process(target: Callable[..., None], *args: object) -> Iterator[Connection]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=target, args=(*args, there))
    process.start()
    try:
        yield here
    finally:
        here.send(None)
        process.join()


def median_s(trip: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        began = time.perf_counter()
        trip()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure(endpoint: Endpoint, address: str, caller: Caller, seconds: float) -> dict[int, float]:
    channel = endpoint.connect(address, timeout_s=5)
    found = {}
    for nbytes in SIZES:
        payload = bytes(nbytes)

        def trip(payload: bytes = payload) -> None:
            channel.send(Value(1, 2), [payload], timeout_s=5)
            caller.back.acquire()

        found[nbytes] = median_s(trip, seconds)
    endpoint.close()
    return found


def inproc(seconds: float) -> dict[int, float]:
    token, caller = new_token(), Caller()
    echo = listen("inproc://", Identity("server", "echo", "benchmark"), token, Echo(), TIMEOUTS)
    endpoint = listen("inproc://", Identity("client", "caller", "benchmark"), token, caller, TIMEOUTS)
    found = measure(endpoint, echo.address, caller, seconds)
    echo.close()
    return found


def tcp(seconds: float) -> dict[int, float]:
    token, caller = new_token(), Caller()
    with other_process(serve, token) as pipe:
        endpoint = listen("tcp://", Identity("client", "caller", "benchmark"), token, caller, TIMEOUTS)
        return measure(endpoint, pipe.recv(), caller, seconds)


def raw(seconds: float) -> dict[int, float]:
    found = {}
    with other_process(serve_raw) as pipe, socket.create_connection(("127.0.0.1", pipe.recv())) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for nbytes in SIZES:
            view = memoryview(bytearray(nbytes))

            def trip(view: memoryview = view) -> None:
                sock.sendall(view)
                exactly(sock, view)

            pipe.send(nbytes)
            found[nbytes] = median_s(trip, seconds)
            sock.sendall(b".")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object: {transport: {bytes: seconds}}")
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time per row and size")
    args = parser.parse_args()
    found = {row.__name__: row(args.seconds) for row in (raw, tcp, inproc)}
    if args.json:
        print(json.dumps(found))
        return
    for name, row in found.items():
        cells = (f"{n:>8} B {s * 1e6:9.1f} us {2 * n / s / 1e9:6.2f} GB/s" for n, s in row.items())
        print(f"{name:<7}" + " |".join(cells))


if __name__ == "__main__":
    main()
