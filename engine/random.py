"""Random values in a graph, drawn anew at each step: `rs.random.normal((None, 16), name="noise")`.

A number depends on nothing but the seed, the name, the step and the element's place in the whole value: it is the same
however the graph is cut.
"""

from __future__ import annotations

from rainshed.ops.random import random_bernoulli as bernoulli
from rainshed.ops.random import random_normal as normal
from rainshed.ops.random import random_uniform as uniform

__all__ = ["bernoulli", "normal", "uniform"]
