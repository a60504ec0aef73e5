"""Transports: connections between processes of a job, chosen by the scheme of an address.

    inproc://NAME                 threads of one process
    tcp://HOST:PORT               machines; port 0 takes a free one, no host means loopback

`listen` gives an Endpoint; its `connect` gives a Channel to a peer that has proven to know the job's token; what
arrives goes to the Handler. All transports share the frames of `runtime/wire.py`, the handshake of `runtime/auth.py`,
and the laws in `tests/runtime/test_transport.py`.
"""

from __future__ import annotations

from rainshed.ops.errors import UsageError
from rainshed.runtime.auth import Identity, Peer
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.transport.base import Channel, Counters, Endpoint, Handler, Home
from rainshed.runtime.transport.inproc import InprocEndpoint
from rainshed.runtime.transport.tcp import TcpEndpoint

__all__ = ["Channel", "Counters", "Endpoint", "Handler", "Identity", "Peer", "listen"]


def listen(uri: str, identity: Identity, token: bytes, handler: Handler, timeouts: Timeouts) -> Endpoint:
    """Be reachable at `uri`; the endpoint's `address` says how.

    Raises  UsageError for an address that is none, or one beyond loopback with an empty token;
            TransportError if it is in use
    """
    home = Home(identity, token, handler, timeouts)
    scheme = uri.partition("://")[0]
    if scheme == "inproc":
        return InprocEndpoint(uri, home)
    if scheme == "tcp":
        return TcpEndpoint(uri, home)
    if scheme in ("shm", "tcp+tls"):
        raise UsageError(f"{uri!r}: {scheme}:// is not built yet", do="use tcp://")
    raise UsageError(f"{uri!r} is no address", schemes="inproc://, tcp://")
