"""Numbers of NumPy mean what Python's mean, wherever a number is asked for: sizes and rates often come out of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rainshed as rs
from rainshed.compiler.plan import to_json
from rainshed.ops.errors import GraphError, UsageError
from rainshed.ops.text import graph_text

Whole = Callable[[int], Any]
Real = Callable[[float], Any]
MODELS: dict[str, Callable[[Whole, Real], Any]] = {
    "dense": lambda i, r: rs.layers.dense(_x(), i(3), init=rs.init.normal(r(0.5))),
    "conv2d": lambda i, r: rs.layers.conv2d(
        _image(), i(4), i(3), stride=i(2), groups=i(2), padding=i(1), dilation=i(1)
    ),
    "conv2d_op": lambda i, r: rs.conv2d(_image(), rs.variable("w", (3, 3, 2, 4)), groups=i(2)),
    "local2d": lambda i, r: rs.layers.local2d(_image(), i(2), (i(3), i(3)), stride=i(2)),
    "pool": lambda i, r: rs.layers.max_pool2d(_image(), i(2), stride=i(1)),
    "embedding": lambda i, r: rs.layers.embedding(rs.input("ids", (3,), "int32"), i(5), i(4)),
    "lstm": lambda i, r: rs.layers.lstm(rs.input("s", (2, 5, 3)), i(5), layers=i(2)),
    "gru": lambda i, r: rs.layers.gru(rs.input("s", (2, 5, 3)), i(5), layers=i(2)),
    "batch_norm": lambda i, r: rs.layers.batch_norm(_x(), training=True, momentum=r(0.5))[0],
    "dropout": lambda i, r: rs.layers.dropout(_x(), r(0.5), seed=i(3)),
    "bernoulli": lambda i, r: rs.random.bernoulli((i(4),), r(0.5), name="b", seed=i(1)),
    "lrn": lambda i, r: rs.layers.local_response_norm(_image(), size=i(3), alpha=r(0.5)),
    "variable": lambda i, r: rs.variable("v", (i(2), i(3)), init=r(0.5)),
    "shapes": lambda i, r: rs.squeeze(rs.expand_dims(rs.reshape(_image(), (i(2), i(-1))), axis=i(1)), axis=i(1)),
    "parts": lambda i, r: rs.concat(rs.split(rs.roll(_x(), i(1)), i(2), axis=i(0)), axis=i(1)),
    "pad": lambda i, r: rs.pad(_x(), widths=i(2)),
    "tensordot": lambda i, r: rs.tensordot(_x(), rs.input("y", (3, 4)), axes=i(1)),
}


def _x() -> Any:
    return rs.input("x", (4, 3))


def _image() -> Any:
    return rs.input("image", (2, 8, 8, 4))


@pytest.mark.parametrize("name", MODELS)
def test_a_graph_is_the_same_by_numbers_of_numpy(name: str) -> None:
    def text(i: Whole, r: Real) -> str:
        return graph_text(rs.graph(outputs={"y": MODELS[name](i, r)}))

    assert text(np.int64, np.float64) == text(np.int32, np.float32) == text(int, float)


def test_a_plan_is_the_same_by_numbers_of_numpy() -> None:
    def plan(i: Whole, r: Real) -> bytes:
        machines = tuple(
            rs.Machine(name=f"m{k}", cores=i(1 + k), flops=r(2.0**35), memory_bytes=i(2**30), overhead_s=r(2.0**-18))
            for k in range(2)
        )
        cluster = rs.Cluster(machines=machines, default_link=rs.Link(r(2.0**30), r(2.0**-14)))
        x = rs.input("x", (None, 64))
        loss = rs.mean(rs.square(rs.layers.dense(x, 256)))
        graph = rs.graph(loss=loss, optimizer=rs.Adam(r(0.5))).bind(batch=i(8))
        return to_json(rs.compile(graph, cluster, seed=i(3), strategy="features"))

    assert plan(np.int64, np.float64) == plan(np.int32, np.float32) == plan(int, float)
    assert rs.Cluster.local(np.int64(2), replicas=np.int64(2)) == rs.Cluster.local(2, replicas=2)  # type: ignore[arg-type]


def test_options_are_the_same_by_numbers_of_numpy() -> None:
    def options(i: Whole, r: Real) -> rs.TrainingOptions:
        method = rs.Downpour(
            replicas=i(2), servers=i(1), n_push=i(2), n_fetch=i(3), warm_start=i(0), max_staleness=i(4)
        )
        return rs.TrainingOptions(
            cluster=rs.Cluster.local(1),
            batch=i(4),
            seed=i(3),
            checkpoint_every=i(5),
            method=method,
            optimizer=rs.SGD(r(0.5)),
        )

    assert options(np.int64, np.float32) == options(int, float)
    assert type(options(np.int64, np.float32).batch) is int


@pytest.mark.parametrize("wrong", [True, 2.0, np.float64(2.0), np.True_, "2", None])
def test_what_is_no_whole_number(wrong: Any) -> None:
    x = rs.input("x", (None, 3))
    graph = rs.graph(outputs={"y": x * 2})
    with pytest.raises(GraphError, match="whole number"):
        rs.layers.dense(x, wrong)
    with pytest.raises(GraphError, match="whole number"):
        graph.bind(batch=wrong)
    with pytest.raises(UsageError, match="whole number"):
        rs.compile(graph.bind(batch=2), rs.Cluster.local(1), seed=wrong)
    for name in ("batch", "seed"):
        with pytest.raises(UsageError, match=f"{name} is a whole number"):
            rs.TrainingOptions(**{name: wrong})


@pytest.mark.parametrize("wrong", [True, np.nan, np.float32(np.inf), 10**400, "1", None])
def test_what_is_no_number(wrong: Any) -> None:
    for make in (rs.init.normal, rs.SGD, lambda r: rs.layers.dropout(rs.input("x", (2,)), r)):
        with pytest.raises(GraphError):
            make(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "downpour"},
        {"method": rs.Single},
        {"optimizer": rs.SGD},
        {"optimizer": 3},
        {"timeouts": 3},
        {"checkpoint": 3},
        {"batch": 0},
        {"checkpoint_every": 0},
    ],
    ids=str,
)
def test_options_that_mean_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        rs.TrainingOptions(**wrong)
