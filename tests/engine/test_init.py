"""Initialisers: their moments, and that a part filled alone equals the part of the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

import rainshed as rs
from rainshed.ops.errors import GraphError

SHAPE = (200, 300)
N, M = SHAPE


def filled(init, shape=SHAPE, whole=SHAPE, offset=(0, 0), seed=1):
    out = np.full(shape, np.nan)
    init.fill(out, seed=seed, name="layer/w", whole=whole, offset=offset)
    return out


@pytest.mark.parametrize(
    "init,mean,std",
    [
        (rs.init.constant(2.5), 2.5, 0.0),
        (rs.init.zeros(), 0.0, 0.0),
        (rs.init.ones(), 1.0, 0.0),
        (rs.init.uniform(-1, 3), 1.0, 4 / math.sqrt(12)),
        (rs.init.normal(2, 0.5), 2.0, 0.5),
        (rs.init.glorot_uniform(N, M), 0.0, math.sqrt(2 / (N + M))),
        (rs.init.glorot_normal(N, M), 0.0, math.sqrt(2 / (N + M))),
        (rs.init.he_uniform(N, M), 0.0, math.sqrt(2 / N)),
        (rs.init.he_normal(N, M), 0.0, math.sqrt(2 / N)),
        (rs.init.lecun_uniform(N, M), 0.0, math.sqrt(1 / N)),
        (rs.init.lecun_normal(N, M), 0.0, math.sqrt(1 / N)),
        (rs.init.scaled(rs.init.glorot_uniform, 4)(N, M), 0.0, 4 * math.sqrt(2 / (N + M))),
    ],
    ids=str,
)
def test_moments_and_parts(init, mean, std):
    values = filled(init)
    assert values.mean() == pytest.approx(mean, abs=4 * std / math.sqrt(values.size) + 1e-12)
    assert values.std() == pytest.approx(std, rel=0.02, abs=1e-12)
    part = filled(init, shape=(50, 70), offset=(120, 30))
    np.testing.assert_array_equal(part, values[120:170, 30:100])
    if std:
        assert (filled(init, seed=2) != values).mean() > 0.99


def test_fans():
    assert rs.init.fans((3, 5)) == (3, 5)
    assert rs.init.fans((3, 3, 8, 16)) == (72, 144)
    assert rs.init.fans((7,)) == (7, 7)


def test_what_a_layer_takes():
    assert str(rs.init.start(0.5, 2, 3)) == "constant(0.5)"
    assert str(rs.init.start(rs.init.normal(0, 1), 2, 3)) == "normal(0, 1)"
    assert rs.init.start(rs.init.he_normal, 2, 3).numbers == (0.0, 1.0)
    np.testing.assert_array_equal(filled(rs.init.start(np.ones(SHAPE), 2, 3)), 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: rs.init.normal(0, -1),
        lambda: rs.init.uniform(2, 1),
        lambda: rs.init.constant(math.nan),
        lambda: rs.init.constant("1"),
        lambda: rs.init.glorot_uniform(0, 0),
        lambda: rs.init.he_normal(0, 3),
        lambda: rs.init.start(lambda fan_in, fan_out: 3.0, 2, 2),
        lambda: rs.init.start("glorot", 2, 2),
    ],
)
def test_wrong_numbers(make):
    with pytest.raises(GraphError):
        make()
