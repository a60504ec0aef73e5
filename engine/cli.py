"""The command `rainshed`: its subcommands, and what an error becomes: a message and an exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from types import ModuleType
from typing import Final

from rainshed.engine.commands import compare, compile, demo, doctor, explain, run, show, train, worker
from rainshed.engine.commands.common import FAILED, INTERRUPTED, REFUSED, USAGE, say
from rainshed.ops.errors import ClusterError, CompileError, GraphError, PlanError, RainshedError, UsageError

COMMANDS: Final[dict[str, ModuleType]] = {
    "demo": demo,
    "compile": compile,
    "show": show,
    "explain": explain,
    "compare": compare,
    "run": run,
    "train": train,
    "worker": worker,
    "doctor": doctor,
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="rainshed",
        description="A dataflow engine: one graph, compiled for several machines, trained by a parameter server.",
        epilog="exit codes: 0 done, 1 failed, 2 wrong words, 3 plan refused, 75 can be resumed, 130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"rainshed {version('rainshed')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        own = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add(own)
        own.set_defaults(run=module.run)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    args = parser().parse_args(words)
    args.words = words  # to be repeated, where a command can be resumed
    try:
        return int(args.run(args))
    except UsageError as error:
        say(f"rainshed {args.command}: {error}")
        return USAGE
    except (PlanError, CompileError, ClusterError, GraphError) as error:
        say(f"rainshed {args.command}: {type(error).__name__}: {error}")
        return REFUSED
    except RainshedError as error:
        say(f"rainshed {args.command}: {type(error).__name__}: {error}")
        return FAILED
    except KeyboardInterrupt:
        say(f"rainshed {args.command}: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
