"""Rainshed: a graph in Python, compiled for several ordinary machines, trained by an asynchronous parameter server.

    import rainshed as rs

The language is the Python Array API standard on nodes: `rs.matmul`, `rs.sum`, `rs.concat`, ... What is more:

    rs.input, rs.variable, rs.constant      the leaves of a graph
    rs.layers, rs.init, rs.random           layers, how variables start, random values
    rs.SGD, rs.Momentum, rs.Adagrad, ...    how gradients move variables
    rs.graph, rs.grad, rs.evaluate          a model as a graph, its gradients, its values
    rs.op                                   ops of your own
    rs.Cluster, rs.compile                  the machines to compile for, and the plan
    rs.compare                              two plans side by side
    rs.Session                              a plan at work, for inference or training in the graph
    rs.Training, rs.Downpour, rs.Single     training on data, with or without a parameter server
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from rainshed.compiler.machines import Cluster, Link, Machine
from rainshed.compiler.pipeline import compile
from rainshed.compiler.plan import Plan
from rainshed.engine import dsl, init, layers
from rainshed.engine.data import Data
from rainshed.engine.dsl import *  # noqa: F403  (its __all__ is the list)
from rainshed.engine.optimizers import SGD, Adagrad, Adam, Momentum, Optimizer, RMSProp
from rainshed.engine.plans import load_plan, save_plan
from rainshed.engine.session import Session
from rainshed.ops.errors import RainshedError

if TYPE_CHECKING:
    from rainshed.engine import datasets
    from rainshed.engine.methods import Downpour, Single, TrainingOptions, TrainingResult
    from rainshed.engine.training import Training, train
    from rainshed.engine.view import compare, plan_html, plan_text

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "Cluster",
    "Data",
    "Downpour",
    "Link",
    "Machine",
    "Momentum",
    "Optimizer",
    "Plan",
    "RMSProp",
    "RainshedError",
    "Session",
    "Single",
    "Training",
    "TrainingOptions",
    "TrainingResult",
    "compare",
    "compile",
    "datasets",
    "init",
    "layers",
    "load_plan",
    "plan_html",
    "plan_text",
    "save_plan",
    "train",
]
__all__ += dsl.__all__

# Loaded when one of their names is first asked for: a session on one machine has no need of them.
_VIEW: Final = "rainshed.engine.view"
_LATER: Final = MappingProxyType(
    {
        **dict.fromkeys(("compare", "plan_html", "plan_text"), _VIEW),
        **dict.fromkeys(("Downpour", "Single", "TrainingOptions", "TrainingResult"), "rainshed.engine.methods"),
        **dict.fromkeys(("Training", "train"), "rainshed.engine.training"),
        "datasets": "rainshed.engine.datasets",
    }
)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LATER[name])
    return module if name == "datasets" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "IPython" in sys.modules:
    import_module(_VIEW).show_in_notebooks(import_module(_VIEW).html_formatter())
