"""rainshed worker: offer this computer to a job."""

from __future__ import annotations

import argparse
from typing import Any

from rainshed.engine.commands.common import OK
from rainshed.engine.worker import work
from rainshed.runtime.auth import read_token
from rainshed.runtime.cluster.agent import AgentOptions
from rainshed.runtime.cluster.processes import token_from_stdin

HELP = "join a job as a worker"
EXAMPLES = """\
  On the computer that coordinates (10.0.0.1), in one shell:
    (umask 077; openssl rand -hex 32 > token); export RAINSHED_TOKEN_FILE=$PWD/token
    rainshed train examples/digits.py:build --data digits.npz --steps 900 --machines 2 --listen tcp://10.0.0.1:7700
  and, with the same token file, on each other computer:
    rainshed worker --join 10.0.0.1:7700 --listen tcp://10.0.0.2:0
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--join", required=True, metavar="HOST:PORT", help="where the coordinator listens")
    parser.add_argument("--job", default="job", help="the job's name (job)")
    parser.add_argument("--name", default="", help="how this worker is called in messages (host name and process)")
    parser.add_argument(
        "--listen",
        default="tcp://127.0.0.1:0",
        metavar="URI",
        help="where this worker is reached by the others (loopback)",
    )
    parser.add_argument("--token-stdin", action="store_true", help=argparse.SUPPRESS)


def run(args: Any) -> int:
    token = token_from_stdin() if args.token_stdin else read_token()
    address = args.join if "://" in args.join else f"tcp://{args.join}"
    work(AgentOptions(address, args.job, args.name, args.listen), token)
    return OK
