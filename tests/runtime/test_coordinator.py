"""A coordinator waits for an agent as long as it gets on, and says how far it was when it stands still."""

import threading

import numpy as np
import pytest

from rainshed.ops.errors import PeerLostError, StallError, UsageError
from rainshed.runtime.cluster.job import Job, JobOptions
from rainshed.runtime.cluster.orders import Nothing
from rainshed.runtime.deadlines import Timeouts

pytestmark = pytest.mark.usefixtures("no_threads_left")

QUICK = Timeouts(heartbeat_s=0.02, suspect_s=1.0, dead_s=5.0, start_s=5.0)
SILENT_S = 0.2


def works_long(agent, payload):
    """Three times as long as the coordinator waits, and tells how far it is."""
    for done in range(30):
        agent.at_work("first values", done, 30)
        agent.stopping.wait(SILENT_S / 10)
    return Nothing(), ()


def stands_still(agent, payload):
    agent.at_work("first values", 7_000, 30_000)
    agent.stopping.wait()
    return Nothing(), ()


def gives_much(agent, payload):
    return Nothing(), [np.ones(1 << 20, np.float32)]


TASKS = {"work long": works_long, "stand still": stands_still, "give much": gives_much}


@pytest.fixture
def seen():
    return []


@pytest.fixture
def job(seen):
    with Job(
        2, JobOptions(backend="threads", tasks=TASKS, timeouts=QUICK, on_work=lambda a: seen.append(a.doing))
    ) as job:
        yield job


def test_whoever_gets_on_has_time(job, seen):
    assert job.coordinator.ask(job.agents, "work long", Nothing(), Nothing, timeout_s=SILENT_S) == [Nothing()] * 2
    assert len({text for text in seen if text.startswith("first values: ")}) > 5


def test_whoever_stands_still_has_not(job):
    with pytest.raises(
        StallError, match=r"the coordinator waited 0\.2 s for worker \d \(.*\) to stand still"
    ) as caught:
        job.coordinator.ask(job.agents, "stand still", Nothing(), Nothing, timeout_s=SILENT_S)
    assert caught.value.detail["doing"] == "first values: 7,000 of 30,000 bytes"


def test_an_answer_counts_as_progress_while_it_comes(job):
    (agent, _), moved = job.agents, job.agents[0].moved
    _, (values,) = job.coordinator.order(agent, "give much", Nothing(), timeout_s=SILENT_S).get(Nothing)
    assert values.nbytes == 1 << 22 and agent.moved > moved and not agent.answering


def test_a_coordinator_that_stood_still_holds_nobody_silent(job):
    """As after Ctrl-Z and `fg`: the watch finds itself late, and the agents have their time from then on."""
    coordinator = job.coordinator
    answer = coordinator.order(job.agents[0], "work long", Nothing(), timeout_s=SILENT_S)
    heard = answer.agent.last_moved
    coordinator.listening.tick(heard + 1000.0)
    assert coordinator.listening.silent_s(heard) == 0.0
    assert answer.get(Nothing)[0] == Nothing() and coordinator.error is None


@pytest.mark.process
def test_workers_that_have_not_joined_are_ended_without_a_word(capfd):
    """As by Ctrl-C while they start: they do not come to a coordinator that has gone, and complain."""
    with pytest.raises(StallError, match="for 3 workers; 0 have joined"):
        Job(3, JobOptions(timeouts=Timeouts().scaled(1e-3)))
    assert not capfd.readouterr().err


def test_whoever_waits_is_told_when_the_job_is_closed(job):
    answer = job.coordinator.order(job.agents[0], "stand still", Nothing(), timeout_s=600.0)
    closing = threading.Thread(target=job.close)
    closing.start()
    with pytest.raises(PeerLostError, match=r"the job was closed while worker \d \(.*\) was to stand still"):
        answer.get(Nothing)
    closing.join()
    with pytest.raises(UsageError, match="the job is closed"):
        job.coordinator.order(job.agents[0], "stand still", Nothing())
