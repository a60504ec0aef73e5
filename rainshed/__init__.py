"""Rainshed: a graph in Python, compiled for several ordinary machines, trained by an asynchronous parameter server.

    import rainshed as rs

The language is the Python Array API standard on nodes: `rs.matmul`, `rs.sum`, `rs.concat`, ... What is more:

    rs.input, rs.variable, rs.constant      the leaves of a graph
    rs.layers, rs.init, rs.random           layers, how variables start, random values
    rs.SGD, rs.Momentum, rs.Adagrad, ...    how gradients move variables
    rs.graph, rs.grad, rs.evaluate          a model as a graph, its gradients, its values
    rs.op                                   ops of your own
    rs.Cluster                              the machines to compile for
"""

from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.engine import dsl, init, layers
from rainshed.engine.dsl import *  # noqa: F403
from rainshed.engine.optimizers import SGD, Adagrad, Adam, Momentum, Optimizer, RMSProp
from rainshed.ops.errors import RainshedError

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "Cluster",
    "Link",
    "Machine",
    "Momentum",
    "Optimizer",
    "RMSProp",
    "RainshedError",
    "init",
    "layers",
]
__all__ += dsl.__all__
