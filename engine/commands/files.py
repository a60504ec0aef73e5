"""Files that commands read and write: arrays by name, ops of the user's own, pages."""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile

from rainshed.compiler.plan import Plan
from rainshed.engine.commands.common import load_module
from rainshed.engine.plans import load_plan
from rainshed.ops.errors import DataError, UsageError
from rainshed.ops.op import Op
from rainshed.runtime.whole_file import whole_file

Array = np.ndarray[Any, Any]


def add_plan(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a plan, and the ops that are in it but not in Rainshed."""
    parser.add_argument("plan", metavar="PLAN.json", help="a plan, as `rainshed compile -o` writes it")
    add_ops(parser)


def add_ops(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ops",
        metavar="FILE.py",
        action="append",
        default=[],
        help="a file with ops of your own (rs.op); may be repeated",
    )


def plan_and_ops(args: argparse.Namespace) -> tuple[Plan, list[Op]]:
    """The plan, checked whole, and the user's own ops. Raises PlanError, UsageError."""
    ops = own_ops(args)
    return load_plan(args.plan, ops), ops


def own_ops(args: argparse.Namespace) -> list[Op]:
    """The ops of the files that `--ops` names. Raises UsageError."""
    return [value for path in args.ops for value in vars(load_module(Path(path))).values() if isinstance(value, Op)]


def read_arrays(path: str | Path) -> dict[str, Array]:
    """The arrays of an .npz file by name. Raises DataError."""
    try:
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, NpzFile):
            raise DataError(f"{path} is not an .npz file", hint="np.savez(path, x=..., label=...)")
        with stored:
            return {name: stored[name] for name in stored}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}") from None


def write_arrays(path: str | Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, whatever their names are, as an .npz file; the file is there whole or not at all."""
    try:
        with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def write_text(path: str | Path, text: str) -> None:
    """The file is there whole or as it was. Raises UsageError if it cannot be written."""
    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def writable(paths: Iterable[str | Path | None], read: Iterable[str | Path | None] = ()) -> None:
    """Raises UsageError, before any work is done, for a file whose folder is not there or may not be written to, or that is
    one of those that are read."""
    sources = {os.path.realpath(path) for path in read if path is not None}
    for path in paths:
        if path is not None:
            folder = Path(path).parent
            if os.path.isdir(path):
                raise UsageError(f"cannot write {path}: it is a folder")
            if not os.path.isdir(folder):
                raise UsageError(f"cannot write {path}: there is no folder {folder}")
            if not os.access(folder, os.W_OK):
                raise UsageError(f"cannot write {path}: the folder {folder} may not be written to")
            if os.path.realpath(path) in sources:
                raise UsageError(f"cannot write {path}: it is read, too; give the output another name")
