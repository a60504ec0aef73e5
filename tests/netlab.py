"""Test hosts on one Linux computer: network namespaces on a bridge, each with a link of limited rate.

    with NetLab(3, rate="100mbit") as lab:
        worker = lab.popen(0, [sys.executable, "-m", "rainshed", "worker", "--join", f"{lab.hub_address}:7700", ...])
        lab.set_rate(1, "1gbit"); lab.cut(2); lab.heal(2)

Each host has a loopback of its own and the address `address(i)`; the bridge itself has `hub_address`, with no limit, where a
coordinator can be (`lab.hub_popen`). Nothing outside can be reached. It needs root, `ip` and `tc`: `lacking()` says what it misses.
A link is a token bucket in each direction. A pause between messages earns credit for 2 ms of sending: less, and a late timer of the
kernel would cost bandwidth. Packets leave in groups of 1 ms, which a network card would cut: one by one, each would cost two timer
interrupts, and at 100 Mbit/s a gigabyte 10 to 20 s of the processors that the hosts share. TCP's congestion control is CUBIC,
Linux's own default, also where the computer's is another. The hosts share the computer's processors, and its name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

QUEUE = "50ms"
UNITS = {"kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
CREDIT_S = 2e-3
LEAST_BURST = 2**15  # a few packets
GROUP_S = 1e-3
PACKET_NBYTES = 1514
MOST_GROUP = 2**16  # that Linux ever sends at once
AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


def lacking() -> str:
    """Why there can be no test hosts here; "" if there can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "test hosts need root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"test hosts need {' and '.join(missing)} (iproute2)"
    name = f"rsprobe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "network namespaces cannot be made here"
    try:
        steps = (
            ["ip", "-n", name, "link", "add", "rs0", "type", "veth", "peer", "name", "rs1"],
            ["tc", "-n", name, "qdisc", "replace", "dev", "rs0", "root", *_bucket("1gbit")],
        )
        for words in steps:
            if subprocess.run(words, capture_output=True, check=False).returncode:
                return f"`{' '.join(words)}` fails here"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return ""


class NetLab:
    """`hosts` namespaces whose links have `rate` (as tc writes it: "1gbit"); a context manager, afterwards they are gone.

    prefix   of the namespaces' names: another for each lab that is up at the same time
    Raises   RuntimeError with what `ip` or `tc` said
    """

    def __init__(self, hosts: int, rate: str | None = None, *, prefix: str | None = None, net: str = "10.77.0") -> None:
        self.hosts, self.rate, self.net = hosts, rate, net
        self.prefix = prefix or f"rs{os.getpid()}h"
        self.hub = f"{self.prefix}hub"

    def name(self, i: int) -> str:
        return f"{self.prefix}{i}"

    def address(self, i: int) -> str:
        return f"{self.net}.{i + 1}"

    @property
    def hub_address(self) -> str:
        return f"{self.net}.254"

    def __enter__(self) -> NetLab:
        try:
            self._up()
        except BaseException:
            self.down()
            raise
        return self

    def _up(self) -> None:
        _run("ip", "netns", "add", self.hub)
        _run("ip", "-n", self.hub, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", self.hub, "addr", "add", f"{self.hub_address}/24", "dev", "br0")
        _run("ip", "-n", self.hub, "link", "set", "br0", "up")
        _run("ip", "-n", self.hub, "link", "set", "lo", "up")
        for i in range(self.hosts):
            host, port = self.name(i), f"p{i}"
            _run("ip", "netns", "add", host)
            _run("ip", "-n", host, "link", "add", "eth0", "type", "veth", "peer", "name", port, "netns", self.hub)
            _run("ip", "-n", self.hub, "link", "set", port, "master", "br0", "up")
            _run("ip", "-n", host, "addr", "add", f"{self.address(i)}/24", "dev", "eth0")
            _run("ip", "-n", host, "link", "set", "eth0", "up")
            _run("ip", "-n", host, "link", "set", "lo", "up")
            control = "cubic" if "cubic" in AVAILABLE.read_text().split() else "reno"  # which every Linux has
            route = (f"{self.net}.0/24", "dev", "eth0", "src", self.address(i), "congctl", control)
            _run("ip", "-n", host, "route", "replace", *route)
            if self.rate:
                self.set_rate(i, self.rate)

    def __exit__(self, *_: object) -> None:
        self.down()

    def down(self) -> None:
        """Remove the namespaces; processes that still run in them are not ended."""
        for name in (*(self.name(i) for i in range(self.hosts)), self.hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def set_rate(self, i: int, rate: str) -> None:
        """Limit host i's link to `rate` in both directions."""
        group = max(2 * PACKET_NBYTES, min(MOST_GROUP, int(bytes_per_s(rate) * GROUP_S)))
        _run("ip", "-n", self.name(i), "link", "set", "dev", "eth0", "gso_max_size", str(group))
        for namespace, device in ((self.name(i), "eth0"), (self.hub, f"p{i}")):
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *_bucket(rate))

    def cut(self, i: int) -> None:
        """Unplug host i."""
        _run("ip", "-n", self.hub, "link", "set", f"p{i}", "down")

    def heal(self, i: int) -> None:
        """Plug it in again."""
        _run("ip", "-n", self.hub, "link", "set", f"p{i}", "up")

    def popen(self, i: int, words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process on host i."""
        return subprocess.Popen(["ip", "netns", "exec", self.name(i), *words], **options)

    def hub_popen(self, words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process at the hub."""
        return subprocess.Popen(["ip", "netns", "exec", self.hub, *words], **options)


def bytes_per_s(rate: str) -> float:
    """Of a rate as tc writes it, such as "100mbit"."""
    unit = rate.lstrip("0123456789.")
    return float(rate.removesuffix(unit)) * UNITS[unit] / 8


def _bucket(rate: str) -> tuple[str, ...]:
    burst = max(LEAST_BURST, int(bytes_per_s(rate) * CREDIT_S))
    return ("tbf", "rate", rate, "burst", str(burst), "latency", QUEUE)


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(words)}` failed: {done.stderr.strip()}")
