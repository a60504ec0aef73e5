"""Links measured between two ends, and kernels of a small program."""

import pytest

from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.ops import CATALOGUE
from rainshed.ops.elementwise import exp
from rainshed.ops.errors import PeerLostError, ProtocolError, StallError
from rainshed.ops.ir import Graph
from rainshed.ops.matmul import matmul
from rainshed.ops.source import input
from rainshed.runtime.auth import Identity, new_token
from rainshed.runtime.cluster.links import MAX_NBYTES, Asker, Echo, measure_link
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.measure import measure_kernels, round_seconds, this_host
from rainshed.runtime.messages import Ping, Value
from rainshed.runtime.transport import listen

TIMEOUTS = Timeouts()


@pytest.fixture(params=["inproc://", "tcp://"])
def ends(request, no_threads_left):
    token, asker = new_token(), Asker(TIMEOUTS)
    echo = listen(request.param, Identity("machine", "echo", "job"), token, Echo(TIMEOUTS), TIMEOUTS)
    endpoint = listen(request.param, Identity("machine", "asker", "job"), token, asker, TIMEOUTS)
    yield asker, endpoint.connect(echo.address, timeout_s=5), echo
    endpoint.close()
    echo.close()


def test_a_link_has_a_latency_and_a_rate_each_way(ends):
    asker, channel, _ = ends
    found = measure_link(asker, channel, 0.2)
    assert 0 <= found.latency_s < 1
    assert min(found.out_bytes_per_s, found.in_bytes_per_s) > 1e6


def test_every_frame_is_answered(ends):
    asker, channel, _ = ends
    trip = asker.exchange(channel, 5, 1000, 100_000)
    assert 0 < trip.sent_s <= trip.answered_s
    assert channel.counters.received_payload_nbytes == 500_000
    assert channel.counters.sent_payload_nbytes == 5000


def test_the_end_of_the_other_is_an_error(ends):
    asker, channel, echo = ends
    echo.close()
    with pytest.raises((PeerLostError, StallError)):
        asker.exchange(channel, 1, 8, 8)


@pytest.mark.parametrize("message,nbytes", [(Value(0, 0), MAX_NBYTES + 1), (Value(MAX_NBYTES + 1, 0), 8), (Ping(0), 8)])
def test_frames_that_were_not_agreed_on_are_refused(message, nbytes):
    with pytest.raises(ProtocolError):
        Echo(TIMEOUTS).buffer(None, message, nbytes)


def test_kernels_of_a_program_are_timed():
    a = input("a", (64, 64))
    plan = compile(Graph({"y": exp(matmul(a, a))}), Cluster.local(1, cores=1))
    program = plan.programs[0]
    found = measure_kernels(program, CATALOGUE, 0.01)
    timed = [s for s in found.seconds if s]
    assert len(found.seconds) == len(program.instructions) and len(timed) == 2
    assert found.round_s >= 0.5 * sum(timed)
    assert 0 <= found.dispatch_s < 1e-2 and found.copy_bytes_per_s > 1e7
    assert round_seconds(program, CATALOGUE, 0.01, 2) > 0


def test_a_host_tells_what_it_is():
    host = this_host()
    assert host == this_host() and host.cores >= 1 and host.memory_bytes > 2**20 and host.identity
