"""The networks of `step.py` in Rainshed: a session on one machine, training in the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

import rainshed as rs
from benchmarks.step_all import NETS


def make_step(net: str, arrays: Mapping[str, np.ndarray], rate: float, *, smoke: bool) -> Callable[[], float]:
    """A function that takes one step of SGD and gives the loss before it."""
    one = NETS[net]
    session = rs.Session(one.graph(one.smoke if smoke else one.sizes, rate))
    session.set_variables({name: a for name, a in arrays.items() if name not in ("x", "labels")})
    feeds = {name: arrays[name] for name in ("x", "labels") if name in arrays}
    return lambda: float(session.run(feeds)["loss"])
