"""Plan files that are wrong, by hand and by chance. Each is refused with PlanError, or means the same.

A change that the checks let through must be one that loads and prints back as it was written: a name for people, a prediction.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from rainshed.compiler.load import load_plan, plan_from_json
from rainshed.compiler.machines import Cluster
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan, to_json
from rainshed.engine.plans import save_plan
from rainshed.ops import CATALOGUE as C
from rainshed.ops.errors import ClusterError, PlanError
from rainshed.ops.init import Init
from rainshed.ops.ir import Graph, scope
from rainshed.ops.random import dropout
from rainshed.ops.reduce import mean
from rainshed.ops.source import input, variable

MUTATED, CHUNKS = 400, 8
Data = dict[str, Any]


def small_plan() -> Plan:
    """Two layers on three machines, with gradients as outputs: sends, receives, partial sums, a step number, constants."""
    x, t = input("x", (12, 9)), input("t", (12, 6))
    with scope("one"):
        h = C["tanh"](x @ variable("w1", (9, 12), init=Init("uniform", (-1, 1))) + variable("b1", (12,)))
        h = dropout(h, 0.5, name="drop")
    with scope("two"):
        y = h @ variable("w2", (12, 6), init=np.arange(72.0, dtype=np.float32).reshape(12, 6) / 72)
    graph = Graph({"loss": mean(C["square"](y - t)), "y": y}, loss="loss")
    return compile(graph, Cluster.local(3), strategy="features")


PLAN = to_json(small_plan())


def fresh() -> Data:
    return json.loads(PLAN)


def load(data: Any) -> Plan:
    return plan_from_json(json.dumps(data).encode(), C)


# -- by hand ----------------------------------------------------------------------------------------------------------
def find(data: Data, kind: str, where: Callable[[Data], bool] = lambda i: True) -> tuple[Data, int, Data]:
    """The first instruction of a kind: its program, its place, itself."""
    for program in data["programs"]:
        for i, instruction in enumerate(program["instructions"]):
            if instruction["type"] == kind and where(instruction):
                return program, i, instruction
    raise AssertionError(f"the plan has no {kind}")


def run(data: Data, op: str | None = None) -> Data:
    return find(data, "run", lambda i: (op is None or i["op"] == op) and bool(i["inputs"]))[2]


def drop(data: Data, kind: str) -> None:
    program, i, _ = find(data, kind)
    del program["instructions"][i]


def double(data: Data, kind: str) -> None:
    program, i, instruction = find(data, kind)
    program["instructions"].insert(i, dict(instruction))


def put(data: Data, kind: str, **fields: Any) -> None:
    find(data, kind)[2].update(fields)


def arena(data: Data) -> Data:
    return next(v for p in data["programs"] for v in p["values"] if v["place"] == "arena")


def with_variables(data: Data) -> Data:
    return next(p for p in data["programs"] if p["variables"])


def first(data: Data, part: str) -> Data:
    return next(p[part][0] for p in data["programs"] if p[part])


def swap_order(data: Data) -> None:
    """A value is read before it is made."""
    program, i, _ = find(data, "free")
    program["instructions"].insert(0, program["instructions"].pop(i))


def overlap(data: Data) -> None:
    for program in data["programs"]:
        for value in program["values"]:
            if value["place"] == "arena":
                value["offset"] = 0


def wait_for_each_other(data: Data) -> None:
    """Each of two machines first receives what the other sends later."""
    one, other = data["programs"][:2]
    one["values"], other["values"] = (
        [{"dtype": "f32", "shape": [1], "place": "arena", "offset": o} for o in (0, 64)] for _ in "ab"
    )
    for p in (one, other):
        p.update(feeds=[], variables=[], outputs=[], step_value=-1, arena_nbytes=128)
    for p, q, key in ((one, other, 0), (other, one, 1)):
        p["instructions"] = [
            {"type": "recv", "value": 0, "key": 1 - key, "source": q["machine"]},
            {"type": "send", "value": 0, "key": key, "to": q["machine"]},
        ]
    last = data["programs"][2]
    last.update(values=[], instructions=[], feeds=[], variables=[], outputs=[], step_value=-1)
    data["transfers"] = [
        {"key": 0, "source": one["machine"], "to": other["machine"], "nbytes": 4, "of": "", "reason": ""},
        {"key": 1, "source": other["machine"], "to": one["machine"], "nbytes": 4, "of": "", "reason": ""},
    ]
    data["prediction"].update(bytes=8, messages=2)


def set_in(*path: Any, to: Any) -> Callable[[Data], None]:
    def change(data: Data) -> None:
        at: Any = data
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to

    return change


BY_HAND: dict[str, Callable[[Data], Any]] = {
    "another version": set_in("version", to=99),
    "version is text": set_in("version", to="1"),
    "no version": lambda d: d.pop("version"),
    "no programs": lambda d: d.pop("programs"),
    "programs empty": set_in("programs", to=[]),
    "programs is a number": set_in("programs", to=3),
    "an unknown field": set_in("surprise", to=1),
    "one program twice": lambda d: d["programs"].append(d["programs"][0]),
    "programs in another order": lambda d: d["programs"].reverse(),
    "a machine renamed": lambda d: d["programs"][0].update(machine="other"),
    "a cluster without machines": set_in("cluster", "machine", to=[]),
    "a cluster that is a list": set_in("cluster", to=[]),
    "a machine without flops": set_in("cluster", "machine", 0, "flops", to=0),
    "a machine's flops are text": set_in("cluster", "machine", 0, "flops", to="fast"),
    "memory below zero": set_in("cluster", "machine", 0, "memory_bytes", to=-1),
    "a link of no speed": set_in("cluster", "link", "bytes_per_s", to=0.0),
    "a link's latency is a list": set_in("cluster", "link", "latency_s", to=[1]),
    "a send without its receive": lambda d: drop(d, "recv"),
    "a receive without its send": lambda d: drop(d, "send"),
    "a value sent twice": lambda d: double(d, "send"),
    "a value received twice": lambda d: double(d, "recv"),
    "a value freed twice": lambda d: double(d, "free"),
    "a value sent to its own machine": lambda d: d["transfers"][0].update(to=d["transfers"][0]["source"]),
    "a send to nobody": lambda d: put(d, "send", to="nobody"),
    "a send of another transfer": lambda d: put(d, "send", key=10**6),
    "a transfer below zero": lambda d: put(d, "send", key=-1),
    "a receive from nobody": lambda d: put(d, "recv", source="nobody"),
    "a transfer of other bytes": lambda d: d["transfers"][0].update(nbytes=3),
    "a transfer of huge bytes": lambda d: d["transfers"][0].update(nbytes=2**62),
    "a transfer's key twice": lambda d: d["transfers"][1].update(key=d["transfers"][0]["key"]),
    "a transfer too many": lambda d: d["transfers"].append({**d["transfers"][0], "key": len(d["transfers"])}),
    "a transfer too few": lambda d: d["transfers"].pop(),
    "an unknown op": lambda d: run(d).update(op="nonsense"),
    "an op from a module": lambda d: run(d).update(op="os.system"),
    "an op for others' values": lambda d: run(d, "matmul").update(op="softmax"),
    "an op with too few inputs": lambda d: run(d, "matmul")["inputs"].pop(),
    "an op with too many inputs": lambda d: run(d)["inputs"].append(0),
    "an op with no result": lambda d: run(d).update(outputs=[]),
    "an op with two results": lambda d: run(d)["outputs"].append(0),
    "an input that is not there": lambda d: run(d).update(inputs=[10**9]),
    "an input below zero": lambda d: run(d).update(inputs=[-1]),
    "an input that is text": lambda d: run(d).update(inputs=["a"]),
    "a result written over an input": lambda d: run(d).update(outputs=run(d)["inputs"][:1]),
    "an unknown attribute": lambda d: run(d)["attrs"].update(colour='"blue"'),
    "an attribute that cannot be read": lambda d: run(d, "slice")["attrs"].update(start="__import__('os')"),
    "an attribute of another kind": lambda d: run(d, "slice")["attrs"].update(start='"x"'),
    "an attribute out of range": lambda d: run(d, "slice")["attrs"].update(stop="[99999, 99999]"),
    "an attribute nested deep": lambda d: run(d, "slice")["attrs"].update(start="[" * 5000 + "]" * 5000),
    "an attribute with a long number": lambda d: run(d, "slice")["attrs"].update(start="[" + "9" * 10000 + "]"),
    "an attribute missing": lambda d: run(d, "slice")["attrs"].pop("start"),
    "seconds that are not a number": lambda d: run(d).update(seconds=-1.0),
    "flops below zero": lambda d: run(d).update(flops=-5),
    "a value of an unknown type": lambda d: arena(d).update(dtype="f128"),
    "a value of a negative size": lambda d: arena(d).update(shape=[-1]),
    "a value of a huge size": lambda d: arena(d).update(shape=[2**40, 2**40]),
    "a value of another shape": lambda d: arena(d).update(shape=[*arena(d)["shape"], 2]),
    "a value in an unknown place": lambda d: arena(d).update(place="cloud"),
    "a value outside the arena": lambda d: arena(d).update(offset=2**40),
    "a value before the arena": lambda d: arena(d).update(offset=-64),
    "values that overlap": overlap,
    "an arena too small": lambda d: d["programs"][0].update(arena_nbytes=8),
    "an arena of nonsense": lambda d: d["programs"][0].update(arena_nbytes=2**63 - 1),
    "read after it was freed": swap_order,
    "machines that wait for each other": wait_for_each_other,
    "a variable on two machines": lambda d: d["programs"][-1]["variables"].append(dict(with_variables(d)["variables"][0])),
    "a variable in a box of another shape": lambda d: first(d, "variables").update(box=[[0, 1]]),
    "a variable outside of the whole": lambda d: first(d, "variables").update(whole=[0, 0]),
    "a variable's box turned round": lambda d: first(d, "variables").update(box=[[5, 0], [5, 0]]),
    "a variable's start that cannot be read": lambda d: first(d, "variables").update(init="init magic [1.0]"),
    "a variable's start that is a number": lambda d: first(d, "variables").update(init="3"),
    "a variable's start of another shape": lambda d: first(d, "variables").update(init="init array array float32 [1] [1.0]"),
    "a feed of another value": lambda d: first(d, "feeds").update(value=10**6),
    "a feed into the arena": lambda d: first(d, "feeds").update(value=find(d, "free")[2]["value"]),
    "a feed in a box of three numbers": lambda d: first(d, "feeds").update(box=[[0, 1, 2]]),
    "an output that is never made": lambda d: first(d, "outputs").update(value=10**6),
    "an output of another shape": lambda d: first(d, "outputs").update(box=[[0, 99]]),
    "an output outside of the whole": lambda d: first(d, "outputs").update(whole=[-1]),
    "an output named by a number": lambda d: first(d, "outputs").update(name=5),
    "a part of an output missing": lambda d: next(p for p in d["programs"] if p["outputs"])["outputs"].pop(),
    "a part of an output twice": lambda d: (lambda o: o.append(o[0]))(next(p for p in d["programs"] if p["outputs"])["outputs"]),
    "a part of a variable missing": lambda d: with_variables(d)["variables"].pop(),
    "a step number that is a float": lambda d: first_step(d).update(dtype="f32"),
    "a step number that is not there": lambda d: d["programs"][0].update(step_value=10**6),
    "an assign to what is no variable": lambda d: assign(d, variable=find(d, "run")[2]["outputs"][0]),
    "an assign of another shape": lambda d: assign(d, value=first(d, "feeds")["value"]),
    "kept bytes below zero": lambda d: d["programs"][0].update(kept_nbytes=-4),
    "other predicted bytes": set_in("prediction", "bytes", to=1),
    "other predicted messages": set_in("prediction", "messages", to=0),
    "a prediction for a stranger": lambda d: d["prediction"]["machines"].update(zz=d["prediction"]["machines"]["m0"]),
    "a prediction that is no number": set_in("prediction", "step_s", to="soon"),
    "an instruction of no kind": lambda d: find(d, "run")[2].update(type="jump"),
    "an instruction that is a number": lambda d: d["programs"][0]["instructions"].insert(0, 7),
    "a program that is null": lambda d: d["programs"].__setitem__(0, None),
    "the loss is a list": set_in("loss", to=["loss"]),
    "a loss that is not an output": set_in("loss", to="nothing"),
    "transfers is an object": set_in("transfers", to={}),
}  # fmt: skip


def first_step(data: Data) -> Data:
    """The value that holds the number of the step."""
    program = next(p for p in data["programs"] if p["step_value"] != -1)
    return program["values"][program["step_value"]]


def assign(data: Data, **fields: Any) -> None:
    program = with_variables(data)
    value = program["variables"][0]["value"]
    program["instructions"].append({"type": "assign", "variable": value, "value": value, **fields})


@pytest.mark.parametrize("name", BY_HAND)
def test_a_wrong_plan_is_refused(name: str) -> None:
    data = fresh()
    BY_HAND[name](data)
    assert data != fresh(), "nothing was changed"
    started = time.perf_counter()
    with pytest.raises(PlanError):
        load(data)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    "text",
    [
        b"", b"null", b"3", b"[]", b"{}", b'"plan"', b"not json", PLAN[:-1], PLAN[: len(PLAN) // 2], PLAN + b"x", b"\xff\xfe\x00",
        b"[" * 10_000_000, b'{"a":' * 1_000_000, b"\x00" * 100, PLAN.replace(b'"version":1', b'"version":1e999'), b'{"version": 1}',
        PLAN.replace(b'"f32"', b'"f\xff2"'), b"\x80\x04\x95.",
    ],
    ids=lambda t: f"{len(t)}:{t[:12]!r}",
)  # fmt: skip
def test_a_file_that_is_no_plan(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text)
    started = time.perf_counter()
    with pytest.raises(PlanError):
        load_plan(path, C)
    assert time.perf_counter() - started < 1


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(PlanError, match="cannot read"):
            load_plan(path, C)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    save_plan(small_plan(), tmp_path / "plan.json")
    assert to_json(load_plan(tmp_path / "plan.json", C)) == PLAN


# -- by chance --------------------------------------------------------------------------------------------------------
WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 7, 10**6, 2**31, 2**63 - 1, 2**63, 10**40, 1.5, -0.5, "", "x", "m0", "m1", "f64", "arena", [], [0],
    [[0, 1]],    [[0, 1], [0, 1]], {}, {"a": 1}, "[" * 3000, "é\u0000", [None],
)  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every node of the JSON."""
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def mutated(rng: np.random.Generator, paths: list[tuple[Any, ...]]) -> Data:
    """The plan with one to three of its nodes changed, deleted, doubled or exchanged."""
    data = fresh()
    for _ in range(int(rng.integers(1, 4))):
        path = paths[int(rng.integers(1, len(paths)))]
        try:
            at: Any = data
            for key in path[:-1]:
                at = at[key]
            _mutate(rng, at, path[-1])
        except (KeyError, IndexError, TypeError):
            continue  # a change before has taken this node away
    return data


def _mutate(rng: np.random.Generator, at: Any, key: Any) -> None:
    how = int(rng.integers(6))
    value = at[key]
    if how == 0:
        del at[key]
    elif how == 1 and isinstance(at, list):
        at.insert(key, copy.deepcopy(value))
    elif how == 2 and isinstance(at, list) and len(at) > 1:
        other = int(rng.integers(len(at)))
        at[key], at[other] = at[other], at[key]
    elif how == 3 and isinstance(value, (int, float)) and not isinstance(value, bool):
        at[key] = value + [1, -1, 2, 64][int(rng.integers(4))]
    else:
        at[key] = WRONG[int(rng.integers(len(WRONG)))]


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_mutated_plan_is_refused_or_means_the_same(chunk: int) -> None:
    paths, counts, slowest = list(places(fresh())), Counter[str](), 0.0
    for seed in range(chunk, MUTATED, CHUNKS):
        data = mutated(np.random.default_rng(seed), paths)
        started = time.perf_counter()
        try:
            plan = load(data)
        except PlanError as error:
            counts["refused"] += 1
            assert error.message
        else:
            counts["loaded"] += 1
            assert fields(json.loads(to_json(plan)), data) == [], f"seed {seed}"
        slowest = max(slowest, time.perf_counter() - started)
    print(f"seeds {chunk}, {chunk + CHUNKS}, ... of {MUTATED}:", dict(counts), f"slowest {slowest * 1e3:.0f} ms")
    assert slowest < 1


def fields(loaded: Any, written: Any, at: str = "$") -> list[str]:
    """Where a loaded plan says something else than what was written; a field left out has its default."""
    if isinstance(loaded, dict) and isinstance(written, dict):
        return [w for k in loaded for w in (fields(loaded[k], written[k], f"{at}.{k}") if k in written else [])]
    if isinstance(loaded, list) and isinstance(written, list) and len(loaded) == len(written):
        return [w for i, (a, b) in enumerate(zip(loaded, written, strict=True)) for w in fields(a, b, f"{at}[{i}]")]
    same = (
        math.isclose(loaded, written)
        if isinstance(loaded, float) and isinstance(written, (int, float))
        else loaded == written
    )
    return [] if same else [f"{at}: {loaded!r} was written {written!r}"]


# -- clusters ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    [
        "", "machine = 3", "[[machine]]", "[[machine]]\nname = 5", '[[machine]]\nname = ""', '[[machine]]\nname = "a b"',
        '[[machine]]\nname = "a"\n[[machine]]\nname = "a"', '[[machine]]\nname = "a"\ncores = 0',
        '[[machine]]\nname = "a"\ncores = "x"',
        '[[machine]]\nname = "a"\nflops = nan', '[[machine]]\nname = "a"\nflops = -1', '[[machine]]\nname = "a"\nflop = 1',
        '[[machine]]\nname = "a"\nmemory_bytes = true', '[[machine]]\nname = "a"\noverhead_s = -1', '[[machine]]\nname = "a/b"',
        '[[machine]]\nname = "a"\noverhead_s = "x"', '[[machine]]\nname = "a"\nmemory_bytes = 1.5',
        '[[machine]]\nname = "a"\n[link]\nbytes_per_s = -1', '[[machine]]\nname = "a"\n[link]\nlatency_s = "x"',
        '[[machine]]\nname = "a"\n[link]\nlatency_s = inf', '[[machine]]\nname = "a"\n[[link.between]]\nmachines = ["a"]',
        '[[machine]]\nname = "a"\n[[link.between]]\nmachines = ["a", "z"]',
        '[[machine]]\nname = "a"\n[[link.between]]\nmachines = [1, 2]',
        '[[machine]]\nname = "a"\n[[machine.unit]]\nname = "cuda0"', 'link = "fast"', "not toml at all", "[[machine]",
        "surprise = 1",
        '[[machine]]\nname = "a"\n[[machine.unit]]\nname = 3\nflops = 1.0\nbytes_per_s = 1.0\nmemory_bytes = 1',
        '[[machine]]\nname = "a"\n[[machine.unit]]\nname = "g"\nflops = "x"\nbytes_per_s = 1.0\nmemory_bytes = 1',
        "a = " + "[" * 2000,
    ],
)  # fmt: skip
def test_a_wrong_cluster_file(text: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    with pytest.raises(ClusterError):
        Cluster.from_toml(path)


def test_a_cluster_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="cannot read"):
        Cluster.from_toml(tmp_path / "nothing.toml")


def test_errors_name_the_place_in_the_json() -> None:
    data = fresh()
    arena(data)["dtype"] = "f128"
    with pytest.raises(PlanError, match=r"\$\.programs\[\d+\]\.values\[\d+\]"):
        load(data)
    with pytest.raises(PlanError, match=r"\$\.programs\[0\]"):
        load(msgspec.convert({**fresh(), "programs": [3]}, dict))
