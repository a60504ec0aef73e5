"""The variables of a deployed plan, to and from files, part by part: nobody holds a large model whole."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rainshed.engine.checkpoint import CheckpointReader, Kind, TensorSpec, compare, latest, write_checkpoint
from rainshed.ops.access import Box
from rainshed.ops.errors import CheckpointError
from rainshed.ops.types import dtype_of
from rainshed.runtime.cluster.deployed import SLAB, Deployed
from rainshed.runtime.slabs import slabs

Array = np.ndarray[Any, Any]


def tensors_of(deployment: Deployed) -> dict[str, TensorSpec]:
    """Every variable as a checkpoint names it; what an optimizer keeps beside a variable `w` is called `w/slot`."""
    programs = deployment.plan.programs
    trained = {v.name for p in programs for v in p.variables if v.trainable}
    found = {}
    for program in programs:
        for v in program.variables:
            kind: Kind = "optim" if not v.trainable and v.name.rpartition("/")[0] in trained else "model"
            found[v.name] = TensorSpec(dtype_of(program.values[v.value].dtype).name, v.whole, kind)
    return found


def save_variables(
    deployment: Deployed, directory: str | Path, step: int, metadata: Mapping[str, Any] | None = None
) -> Path:
    """Write a checkpoint of all variables; its path. Raises CheckpointError."""
    with write_checkpoint(directory, step, tensors_of(deployment), metadata) as writer:
        for machine, name, box in slabs_of(deployment):
            writer.write(name, box, deployment.get(machine, [(name, box)])[0])
        return writer.commit()


def load_variables(deployment: Deployed, path: str | Path) -> int:
    """Set the variables from a file; the step it was written at, 0 if it does not tell.

    path    a folder of checkpoints, of which the newest is taken, one of them, a .safetensors file, or an .npz file
    Raises  CheckpointError, before anything is set, if the file is no such file or does not fit the plan
    """
    path = Path(path)
    if path.suffix == ".npz":
        deployment.set_variables(_fitting(_npz(path), tensors_of(deployment), path))
        return 0
    with CheckpointReader(_checkpoint(path)) as reader:
        tensors = tensors_of(deployment)
        for kind in ("model", "optim"):
            wanted = {name: (spec.dtype, spec.shape) for name, spec in tensors.items() if spec.kind == kind}
            if wanted or kind == "model":
                compare(reader, wanted, kind=kind)
        for machine, name, box in slabs_of(deployment):
            deployment.put(machine, [(name, box)], [reader.read(name, box)])
        return reader.step


def slabs_of(deployment: Deployed, names: Sequence[str] | None = None) -> Iterator[tuple[str, str, Box]]:
    """(machine, variable, box) of what machines keep, or of these variables, in boxes small enough to be held twice."""
    for machine, name, box, _, _ in deployment.parts(names):
        for slab in slabs(box, SLAB):
            yield machine, name, slab


def _checkpoint(path: Path) -> Path:
    """The newest checkpoint, where the path is a folder that holds several."""
    if not path.exists():
        raise CheckpointError(f"there is no {path}")
    return latest(path) if path.is_dir() and any(path.glob("step-*")) else path


def _npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _fitting(arrays: dict[str, Array], tensors: Mapping[str, TensorSpec], path: Path) -> dict[str, Array]:
    for name, spec in tensors.items():
        if name not in arrays:
            raise CheckpointError(f"{path} has no variable {name!r}", expected=spec)
        if (arrays[name].dtype.name, arrays[name].shape) != spec[:2]:
            found = f"{arrays[name].dtype.name}{list(arrays[name].shape)}"
            raise CheckpointError(f"{path}: variable {name!r} does not fit", expected=spec, found=found)
    return {name: arrays[name] for name in tensors}
