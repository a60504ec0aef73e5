"""One machine runs its program; errors, deadlines, threads."""

import threading
from dataclasses import replace

import numpy as np
import plans
import pytest

from rainshed.compiler.plan import Send
from rainshed.ops import CATALOGUE
from rainshed.ops.errors import DataError, KernelError, PeerLostError, PlanError, StallError, TransportError, UsageError
from rainshed.ops.init import Init
from rainshed.ops.op import op
from rainshed.runtime.auth import Identity, new_token
from rainshed.runtime.deadlines import Timeouts
from rainshed.runtime.executor import Executor, Options
from rainshed.runtime.messages import Value
from rainshed.runtime.peers import Peers
from rainshed.runtime.transport import listen

pytestmark = pytest.mark.usefixtures("no_threads_left")
QUICK = Timeouts().scaled(0.05)


def f32(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


class Steps:
    """Kernels for tests: `fail` raises, `wait` waits for `go` after setting `begun`."""

    def __init__(self):
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        self.threads = set()

        def wait(x, out):
            self.threads.add(threading.get_ident())
            self.begun.release()
            if not self.go.wait(20):
                raise TimeoutError("nobody let it go")
            out[...] = x

        def fail(x, out):
            raise ValueError("broken on purpose")

        own = (op(name="wait", signature="()->()", cpu=wait), op(name="fail", signature="()->()", cpu=fail))
        self.ops = {**CATALOGUE, **{o.name: o for o in own}}


def alone(build, ops=CATALOGUE, **options):
    return Executor(build.program(), ops=ops, options=Options(**options))


class Job:
    """Machines of a plan, each with its endpoint, to be run and broken one by one."""

    def __init__(self, plan, uri="inproc://", ops=CATALOGUE, timeouts=QUICK, without=()):
        token = new_token()
        self.peers, self.executors, self.endpoints = {}, {}, {}
        for program in plan.programs:
            name = program.machine
            self.peers[name] = peers = Peers(program, timeouts, prefix="r0/")
            if name not in without:
                options = Options(timeouts=timeouts)
                self.executors[name] = Executor(program, ops=ops, peers=peers, options=options)
            identity = Identity("machine", f"r0/{name}", "job")
            self.endpoints[name] = listen(uri, identity, token, peers, timeouts)
        addresses = {name: e.address for name, e in self.endpoints.items()}
        self.each(lambda name: self.peers[name].connect(self.endpoints[name], addresses), self.peers)

    def each(self, task, names=None):
        """The task for all machines at once; what each returned or raised."""
        results = {}

        def guarded(name):
            try:
                results[name] = task(name)
            except Exception as error:
                results[name] = error

        threads = [threading.Thread(target=guarded, args=(name,)) for name in names or self.executors]
        for t in threads:
            t.start()
        for t in threads:
            t.join(30)
        return results

    def run(self, step, feeds):
        return self.each(lambda name: self.executors[name].run(step, feeds))

    def close(self, name):
        self.endpoints[name].close()
        self.peers[name].close()
        if name in self.executors:
            self.executors[name].close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in self.endpoints:
            self.close(name)


# -- one machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_a_step_feeds_computes_assigns_and_gives_outputs(threads):
    with Executor(plans.counter().programs[0], ops=CATALOGUE, options=Options(threads=threads)) as e:
        e.init_variables(0)
        w = np.full(3, 2, np.float32)
        for step in range(3):
            dw = f32(3, seed=step)
            out = e.run(step, {"dw": dw})
            np.testing.assert_array_equal(out["twice", ((0, 3),)], w + w)
            np.testing.assert_array_equal(out["old", ((0, 3),)], w)
            w = w + dw
            np.testing.assert_array_equal(e.get_variable("w", ((0, 3),)), w)
        e.set_variable("w", ((0, 3),), np.zeros(3, np.float32))
        assert not e.run(3, {"dw": dw})["twice", ((0, 3),)].any()


def test_step_number_constants_and_functions_as_feeds():
    b = plans.Build("m0")
    x = b.feed("x", (2, 3), box=((4, 6), (0, 3)), of=(9, 3))
    c = b.run("constant", (), (3,), kept=True, value=np.arange(3, dtype=np.float32))
    b.output("y", b.run("add", (x, c), (2, 3)))
    b.output("n", b.run("add", (b.step(), b.step_value), (), dtype="i64"))
    whole = f32(9, 3)
    asked = []

    def given(box):
        asked.append(box)
        return whole[4:6]

    with alone(b) as e:
        for feeds in ({"x": whole}, {"x": given}):
            out = e.run(21, feeds)
            np.testing.assert_array_equal(out["y", ((0, 2), (0, 3))], whole[4:6] + np.arange(3, dtype=np.float32))
            assert out["n", ()] == 42
        assert asked == [((4, 6), (0, 3))]


def test_outputs_are_copies_unless_asked_otherwise():
    with Executor(plans.counter().programs[0], ops=CATALOGUE) as e:
        e.init_variables(0)
        first = e.run(0, {"dw": f32(3)})["twice", ((0, 3),)]
        view = e.run(1, {"dw": f32(3)}, copy=False)["twice", ((0, 3),)]
        was = view.copy()
        e.run(2, {"dw": f32(3)})
        assert not np.shares_memory(first, view) and not np.array_equal(view, was)


def test_parts_of_a_variable_start_as_the_whole_would():
    init = Init("normal", (1.0, 2.0))
    whole, part = plans.Build("m0"), plans.Build("m0")
    whole.variable("w", (6, 4), init=init)
    part.variable("w", (2, 3), init=init, box=((2, 4), (1, 4)), of=(6, 4))
    with alone(whole) as a, alone(part) as b:
        for e in (a, b):
            e.init_variables(7)
        expected = a.get_variable("w", ((0, 6), (0, 4)))[2:4, 1:4]
        np.testing.assert_array_equal(b.get_variable("w", ((2, 4), (1, 4))), expected)
        # and are read and written box by box
        np.testing.assert_array_equal(b.get_variable("w", ((3, 4), (1, 3))), expected[1:, :2])
        b.set_variable("w", ((2, 3), (2, 4)), np.array([[5, 6]], np.float32))
        expected[0, 1:] = 5, 6
        np.testing.assert_array_equal(b.get_variable("w", ((2, 4), (1, 4))), expected)
        for box in (((1, 3), (1, 4)), ((2, 4),), ((2, 4), (1, 5))):
            with pytest.raises(UsageError, match="does not own"):
                b.get_variable("w", box)


def test_large_kernels_run_at_once_and_small_ones_need_no_helper():
    steps = Steps()
    b = plans.Build("m0")
    x = b.feed("x", (4,))
    for i in range(3):
        b.output(f"y{i}", b.run("wait", (x,), (4,), seconds=1.0))
    with alone(b, steps.ops, threads=3) as e:
        done = {}
        caller = threading.Thread(target=lambda: done.update(e.run(0, {"x": f32(4)})))
        caller.start()
        for _ in range(3):
            assert steps.begun.acquire(timeout=20)  # all three have begun before any may end
        steps.go.set()
        caller.join(20)
        assert len(done) == 3 and len(steps.threads) == 3


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_wide_graph_of_many_kernels_on_several_threads(threads):
    b = plans.Build("m0")
    x = b.feed("x", (8,))
    layer = [x] * 8
    for i in range(40):
        new = [b.run("add", (layer[j], layer[(j + i) % 8]), (8,), seconds=j % 2) for j in range(8)]
        if i:
            b.free(*layer)
        layer = [b.run("multiply", (v, v), (8,)) for v in new]
        b.free(*new)
        total = [b.run("tanh", (v,), (8,)) for v in layer]
        b.free(*layer)
        layer = total
    for j, v in enumerate(layer):
        b.output(f"y{j}", v)
    given = f32(8)
    expected = [given] * 8
    for i in range(40):
        expected = [np.tanh((expected[j] + expected[(j + i) % 8]) ** 2) for j in range(8)]
    with alone(b, threads=threads) as e:
        for step in range(20):
            out = e.run(step, {"x": given})
            for j in range(8):
                np.testing.assert_allclose(out[f"y{j}", ((0, 8),)], expected[j], rtol=1e-4)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("feeds", "what"),
    [
        ({}, "input 'dw' was not given"),
        ({"dw": np.zeros(2, np.float32)}, r"input 'dw' is f32\[3\]; found shape \[2\]"),
        ({"dw": np.zeros((3, 1), np.float32)}, r"found shape \[3, 1\]"),
        ({"dw": np.zeros(3)}, "input 'dw' is f32; found element type float64"),
        ({"dw": lambda box: np.zeros(2, np.float32)}, r"input 'dw'\[0:3\] is f32\[3\]; found shape \[2\]"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_and_spoil_nothing(feeds, what):
    with Executor(plans.counter().programs[0], ops=CATALOGUE) as e:
        with pytest.raises(DataError, match=what):
            e.run(0, feeds)
        assert len(e.run(0, {"dw": f32(3)})) == 2


def test_variables_are_taken_in_their_own_shape_only():
    with Executor(plans.counter().programs[0], ops=CATALOGUE) as e:
        for wrong in (np.zeros(4, np.float32), np.zeros(3), np.float32(1)):
            with pytest.raises(DataError, match=r"variable 'w'\[0:3\] is f32\[3\]; found"):
                e.set_variable("w", ((0, 3),), wrong)
        with pytest.raises(UsageError, match=r"m0 does not own variable 'w'\[0:4\]\n  owns  w\[0:3\]"):
            e.get_variable("w", ((0, 4),))


def broken(change):
    b = plans.Build("m0")
    x = b.feed("x", (2, 3))
    change(b, x)
    return b


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda b, x: b.run("no_such_op", (x,), (2, 3)), "instruction 0 of m0: there is no op 'no_such_op'"),
        (lambda b, x: b.run("negative", (x,), (2, 4)), r"negative makes f32\[2, 3\]; planned is f32\[2, 4\]"),
        (lambda b, x: b.run("add", (x,), (2, 3)), "takes 2 inputs, found 1"),
        (lambda b, x: b.run("matmul", (x, x), (2, 3), line="train.py:31"), "axis k is 3 in input 0"),
        (lambda b, x: b.run("sum", (x,), (3,), axis=7), "there is no axis 7"),
        (lambda b, x: b.run("sum", (x,), (3,), dim=0), "has no attribute 'dim'"),
        (lambda b, x: b.assign(b.variable("w", (3,)), x), r"variable f32\[3\] is given a value f32\[2, 3\]"),
    ],
)
def test_programs_that_the_ops_refuse_are_not_loaded(change, what):
    with pytest.raises(PlanError, match=what):
        alone(broken(change))


def test_a_kernel_that_raises_names_op_machine_line_and_inputs():
    steps = Steps()
    b = plans.Build("worker1")
    x = b.feed("x", (4,))
    b.run("fail", (x,), (4,), line="train.py:31", scope="hidden1")
    with alone(b, steps.ops) as e:
        for _ in range(2):  # and again: this executor is not used any more
            with pytest.raises(KernelError) as caught:
                e.run(0, {"x": f32(4)})
            assert str(caught.value).splitlines() == [
                "fail: its kernel raised ValueError: broken on purpose",
                "  machine   worker1",
                "  inputs    f32[4]",
                "  layer     hidden1",
                "  built at  train.py:31",
            ]


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="at least one thread"):
        Options(threads=0)
    with pytest.raises(UsageError, match="the program of m0 exchanges values: it needs peers"):
        Executor(plans.one_way().program("m0"), ops=CATALOGUE)
    e = Executor(plans.counter().programs[0], ops=CATALOGUE)
    e.close()
    e.close()
    with pytest.raises(UsageError, match="the executor of m0 is closed"):
        e.run(0, {"dw": f32(3)})


# -- several machines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["inproc://", "tcp://"])
def test_machines_exchange_values(uri):
    with Job(plans.exchange(), uri) as job:
        for step in range(20):
            a, b = f32(8, seed=step), f32(8, seed=step + 100)
            out = job.run(step, {"a": a, "b": b})
            for _ in range(3):
                a, b = a + b, b * a
            np.testing.assert_array_equal(out["m0"]["a", ((0, 8),)], a)
            np.testing.assert_array_equal(out["m1"]["b", ((0, 8),)], b)


@pytest.mark.parametrize("n", [1_000, 1_000_000])  # sent at once, and by a thread
def test_a_machine_that_only_sends_does_not_run_away(n):
    a, b = plans.Build("m0"), plans.Build("m1")
    x = a.feed("x", (n,))
    a.send(a.run("negative", (x,), (n,)), 0, "m1")
    b.output("y", b.run("negative", (b.recv(0, "m0", (n,)),), (n,)))
    with Job(plans.plan_of(a, b), timeouts=Timeouts()) as job:

        def run_all(name):
            values = []
            for step in range(30):
                out = job.executors[name].run(step, {"x": np.full(n, step, np.float32)})
                values += [part[-1] for part in out.values()]
            return values

        assert job.each(run_all) == {"m0": [], "m1": list(range(30))}


def test_a_kernel_that_raises_stops_all_machines():
    """m0 -> m1 -> m2, m1 raises: m0 and m2 learn why, m2 though it waits for m1, and without any deadline passing."""
    steps = Steps()
    a, b, c = plans.Build("m0"), plans.Build("m1"), plans.Build("m2")
    a.send(a.feed("x", (4,)), 0, "m1")
    back = a.recv(2, "m1", (4,))
    a.output("y", back)
    mid = b.run("fail", (b.recv(0, "m0", (4,)),), (4,), line="train.py:9")
    b.send(mid, 1, "m2")
    b.send(mid, 2, "m0")
    c.output("z", c.recv(1, "m1", (4,)))
    with Job(plans.plan_of(a, b, c), ops=steps.ops, timeouts=Timeouts()) as job:
        out = job.run(0, {"x": f32(4)})
        for name in ("m0", "m1", "m2"):
            assert isinstance(out[name], KernelError)
            assert "broken on purpose" in str(out[name]) and "train.py:9" in str(out[name])
            assert job.executors[name].failed_at == "m1"
        assert all(isinstance(x, KernelError) for x in job.run(1, {"x": f32(4)}).values())


def test_a_stall_names_who_waited_for_what_from_whom():
    with Job(plans.partial_sums(), timeouts=replace(Timeouts(), step_s=0.3)) as job:
        job.executors["m0"].init_variables(0)
        with pytest.raises(StallError) as caught:
            job.executors["m0"].run(118, {"x": f32(4, 6)})  # m1 does nothing
        assert caught.match(
            r"m0 waited 0\.\d s for partial\[0:4, 0:5\] f32\[4, 5\] \(80 bytes\) from m1, "
            r"last heard \d+\.\d s ago; step 118 is stopped"
        )


def test_the_deadline_is_for_waiting_not_for_work():
    """A kernel may take longer than step_s: nobody waits for a peer meanwhile."""
    steps = Steps()
    b = plans.Build("m0")
    x = b.feed("x", (4,))
    b.output("y", b.run("wait", (x,), (4,), seconds=1.0))
    b.output("z", b.run("wait", (x,), (4,), seconds=1.0))
    with alone(b, steps.ops, threads=2, timeouts=Timeouts().scaled(0.002)) as e:  # 0.12 s for a step
        caller = threading.Thread(target=lambda: e.run(0, {"x": f32(4)}))
        caller.start()
        assert steps.begun.acquire(timeout=20) and steps.begun.acquire(timeout=20)
        caller.join(0.5)
        assert caller.is_alive()
        steps.go.set()
        caller.join(20)
        e.run(1, {"x": f32(4)})


@pytest.mark.parametrize("uri", ["inproc://", "tcp://"])
def test_a_peer_that_goes_away_is_named(uri):
    with Job(plans.partial_sums(), uri, timeouts=Timeouts()) as job:
        job.executors["m0"].init_variables(0)
        out = {}

        def run():
            with pytest.raises(PeerLostError, match="m0 lost m1") as caught:
                job.executors["m0"].run(0, {"x": f32(4, 6)})
            out["m0"] = caught.value

        caller = threading.Thread(target=run)
        caller.start()
        job.close("m1")
        caller.join(20)
        assert "m0" in out
        with pytest.raises(PeerLostError, match="m0 lost m1"):
            job.executors["m0"].run(1, {"x": f32(4, 6)})


def test_a_peer_that_sends_what_was_not_planned_is_cut_off():
    with Job(plans.partial_sums(), without=("m1",)) as job:
        payload = memoryview(bytes(80))
        channel = job.peers["m1"]._channels["m0"]
        channel.send(Value(step=0, key=5), (payload,), timeout_s=1.0)
        job.executors["m0"].init_variables(0)
        with pytest.raises(PeerLostError, match="transfer 5 of step 0 from m1: m0 expects no such transfer"):
            job.executors["m0"].run(0, {"x": f32(4, 6)})


def test_a_neighbour_that_does_not_come_is_named():
    program = plans.partial_sums().program("m0")
    peers = Peers(program, Timeouts().scaled(0.002))
    endpoint = listen("inproc://", Identity("machine", "m0", "job"), new_token(), peers, Timeouts())
    try:
        with pytest.raises(StallError, match=r"m0 waited 0\.12 s for m1 to connect"):
            peers.connect(endpoint, {})
    finally:
        endpoint.close()


def test_strangers_are_refused():
    """m1's process says that it is m7: m0 has nothing to exchange with that, and tells it so."""
    plan, token = plans.partial_sums(), new_token()
    peers = {name: Peers(plan.program(name), QUICK) for name in plan.machines}
    named = {"m0": "m0", "m1": "m7"}
    ends = {n: listen("inproc://", Identity("machine", named[n], "job"), token, p, QUICK) for n, p in peers.items()}
    try:
        with pytest.raises(TransportError, match="m0 has nothing to exchange with machine m7"):
            peers["m1"].connect(ends["m1"], {"m0": ends["m0"].address})
            with Executor(plan.program("m1"), ops=CATALOGUE, peers=peers["m1"], options=Options(timeouts=QUICK)) as e:
                for step in range(100):
                    e.run(step, {"x": f32(4, 6)})
    finally:
        for end in ends.values():
            end.close()


def test_clocks_are_compared():
    with Job(plans.partial_sums()) as job:
        samples = job.peers["m0"].clock_samples("m1", 5)
        assert len(samples) == 5
        assert all(s.asked_ns <= s.other_ns <= s.heard_ns for s in samples)  # the same clock, here


def test_payloads_are_bound_once():
    with Job(plans.exchange()) as job:
        loaded = job.executors["m0"]._loaded
        for i, payload in loaded.payloads.items():
            send = loaded.program.instructions[i]
            assert isinstance(send, Send)
            assert np.shares_memory(np.frombuffer(payload, np.uint8), loaded.arrays[send.value])
