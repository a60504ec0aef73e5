"""What commands share: exit codes, loading the user's program, clusters from the command line, output."""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from rainshed.compiler.machines import Cluster
from rainshed.compiler.passes.lower_precision import FLOAT32, PRECISIONS
from rainshed.ops.errors import RainshedError, UsageError
from rainshed.ops.ir import Graph
from rainshed.ops.types import Batch, TensorType

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3  # a plan, graph or cluster that is wrong
RESUMABLE: Final = 75
INTERRUPTED: Final = 130


def print_json(value: Any) -> None:
    """One JSON object on the standard output, where programs read."""
    print(json.dumps(value, indent=None, default=str))


def say(text: str, *, quiet: bool = False) -> None:
    """A line for people, on the standard error."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def load_builder(spec: str) -> Callable[..., Any]:
    """The function named by FILE.py:NAME, such as examples/speech.py:build.

    Raises  UsageError if there is no such file or function, or the file fails
    """
    path, _, name = spec.rpartition(":")
    if not path or not name:
        raise UsageError(f"{spec!r} is not of the form FILE.py:FUNCTION", example="examples/speech.py:build")
    module = load_module(Path(path))
    found = getattr(module, name, None)
    if not callable(found):
        raise UsageError(f"{path} has no function {name!r}")
    return found  # type: ignore[no-any-return]


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"rainshed_program_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise UsageError(f"there is no Python file {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except RainshedError:
        raise
    except Exception as error:
        raise UsageError(f"{path} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module


def build_graph(spec: str, settings: Mapping[str, Any], batch: int | None) -> Graph:
    """Call the user's build function; `settings` are its keyword arguments; the batch is bound if it is open.

    Raises  UsageError for settings that it does not take, or if it gives no graph
    """
    build = load_builder(spec)
    try:
        inspect.signature(build).bind(**settings)
    except TypeError as error:
        raise UsageError(f"{spec}: {error}", takes=str(inspect.signature(build))) from None
    graph = build(**settings)
    if not isinstance(graph, Graph):
        hint = "return rs.graph(loss=..., outputs=...)"
        raise UsageError(f"{spec} gives {type(graph).__name__}, not a graph", hint=hint)
    return graph if graph.bound else graph.bind(batch=batch or 32)


def batch_of(graph: Graph) -> int | None:
    """The batch that a bound graph was given: the first axis of its first input."""
    for node in graph.inputs.values():
        if isinstance(node.type, TensorType) and node.shape and not isinstance(node.shape[0], Batch):
            return node.shape[0]
    return None


def add_program(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a program and a cluster."""
    parser.add_argument("program", metavar="FILE.py:FUNCTION", help="the function that builds the graph")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="an argument of the function; may be repeated"
    )
    parser.add_argument(
        "--batch", type=positive, default=None, help="examples in a batch, where the graph leaves it open (32)"
    )
    add_cluster(parser)
    again = "when no plan fits the memory, compute activations a second time for backward instead of keeping them"
    parser.add_argument("--rematerialize", action="store_true", help=again)
    precision = (
        "what products and convolutions read: float32, or bf16: operands rounded to bfloat16, sums in float32 (float32)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default=FLOAT32, help=precision)
    what = "a layer, variable or value that must be on this machine, or a pattern of names; may be repeated"
    parser.add_argument("--place", metavar="NAME=MACHINE", action="append", default=[], help=what)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--machines", type=positive, default=None, metavar="N", help="N equal machines on this computer (1)"
    )
    where.add_argument("--cluster", metavar="FILE.toml", help="the machines and links of a file")
    parser.add_argument("--strategy", default="auto", help="where the partitioner starts; auto tries all (auto)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of initial values, random ops, data order and searches (0)"
    )


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def cluster_from(args: argparse.Namespace, *, replicas: int = 1) -> Cluster:
    """`replicas`: those of --machines share this computer; a file tells what each machine has by itself."""
    if args.cluster:
        return Cluster.from_toml(args.cluster)
    return Cluster.local(args.machines or 1, replicas=replicas)


def settings_from(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE pairs; a value is JSON if it can be read so, else a text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--set {pair!r} is not of the form NAME=VALUE")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def places_from(pairs: list[str]) -> dict[str, str]:
    """NAME=MACHINE pairs. Raises UsageError if a name is given two machines."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, machine = pair.rpartition("=")
        if not equals or not name or not machine:
            raise UsageError(f"--place {pair!r} is not of the form NAME=MACHINE", example="--place dense=m0")
        if found.setdefault(name, machine) != machine:
            raise UsageError(f"--place: {name} cannot be on two machines, {found[name]} and {machine}")
    return found
