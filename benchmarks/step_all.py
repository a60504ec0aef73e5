"""All networks of `step.py` by name: the five of `step_nets.py`, and those of `step_shapes.py`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from benchmarks.step_nets import NETS as FIRST
from benchmarks.step_nets import Net
from benchmarks.step_shapes import SHAPES

NETS: Mapping[str, Net] = MappingProxyType({**FIRST, **SHAPES})
