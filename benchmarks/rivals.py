"""Other partitioners on the same hypergraph: METIS (edge cut and volume) and Mt-KaHyPar, both from the extra [bench].

METIS takes several weights per vertex, so that every heavy layer is balanced; it is called through its C interface, since
pymetis leaves these arguments out. Mt-KaHyPar takes one weight: either all layers together, or columns of tiles that lie at
the same place of every layer, where layers have the same places.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from rainshed.compiler.partition.atoms import Tiling
from rainshed.compiler.partition.refine import Task, contract, crossing, excess
from rainshed.compiler.partition.seeds import columns

UNIT = 1_000_000  # weights are whole numbers: this many in all
INDEX = np.int64  # the idx_t that the METIS of pymetis was built with
_OPTIONS = 40  # METIS_NOPTIONS
_OBJTYPE, _SEED = 1, 8  # places in the options of METIS 5
THREADS = 2  # of Mt-KaHyPar


@cache
def peer(name: str) -> Any:
    """The module of another partitioner.

    Raises  ModuleNotFoundError, which names the extra that brings it
    """
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"this needs the package {name}: pip install 'rainshed[bench]', or --no-peers to measure without", name=name
        ) from None


@cache
def _library() -> Any:
    return peer("mtkahypar").initialize(THREADS)


@dataclass(frozen=True)
class Runs:
    """The seeds of each rival, and a folder for the placements that it made: the same hypergraph is not placed twice."""

    seeds: Sequence[int]
    keep: Path | None = None

    def of(
        self, name: str, given: Sequence[Any], make: Callable[[int], np.ndarray | None]
    ) -> tuple[list[np.ndarray], float]:
        """The placements of all seeds, and the seconds that they took; `make` gives that of one seed, or None."""
        found, seconds = [], 0.0
        told = hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in given)).hexdigest()[:16]
        for seed in self.seeds:
            file = self.keep / f"{name}-{told}-{seed}.npz" if self.keep else None
            if file and file.exists():
                kept = np.load(file)
                home, took = kept["home"], float(kept["seconds"])
            else:
                start = time.perf_counter()
                made = make(seed)
                home, took = (np.zeros(0, np.int64) if made is None else made), time.perf_counter() - start
                if file:
                    np.savez(file, home=home.astype(np.int16), seconds=took)
            seconds += took
            if len(home):
                found.append(home.astype(np.int64))
        return found, seconds


Made = tuple[np.ndarray | None, float]  # a placement, and the seconds of all runs


def metis(tiling: Tiling, task: Task, *, volume: bool, balance: float, runs: Runs) -> Made:
    """The best of several runs: one constraint per heavy layer; `volume`: communication volume instead of edge cut."""
    library = ctypes.CDLL(peer("pymetis")._internal.__file__)
    starts, neighbours, weights = _graph(tiling)
    constraints = _constraints(tiling)
    size = np.zeros(tiling.vertices, np.int64)
    own = tiling.tasks.maker >= 0
    np.add.at(size, tiling.tasks.vertex[tiling.tasks.maker[own]], tiling.tasks.nbytes[own])
    arrays = [np.ascontiguousarray(a, INDEX) for a in (starts, neighbours, constraints, _small(size), weights)]
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in arrays]

    def one(seed: int) -> np.ndarray | None:
        options = np.full(_OPTIONS, -1, INDEX)
        options[_OBJTYPE], options[_SEED] = int(volume), seed
        home = np.zeros(tiling.vertices, INDEX)
        cut = ctypes.c_int64(0)
        limit = np.full(constraints.shape[1], balance, np.float32)
        status = library.METIS_PartGraphKway(
            ctypes.byref(ctypes.c_int64(tiling.vertices)),
            ctypes.byref(ctypes.c_int64(constraints.shape[1])),
            *pointers,
            ctypes.byref(ctypes.c_int64(task.machines)),
            None,
            limit.ctypes.data_as(ctypes.c_void_p),
            options.ctypes.data_as(ctypes.c_void_p),
            ctypes.byref(cut),
            home.ctypes.data_as(ctypes.c_void_p),
        )
        return home if status == 1 else None

    name = "metis_vol" if volume else "metis"
    found, seconds = runs.of(name, [*arrays, balance, task.machines], one)
    return _best(task, found), seconds


def _small(weights: np.ndarray) -> np.ndarray:
    """Weights scaled so that sums of many stay in 32 bits."""
    scale = max(1.0, float(weights.sum()) / 2**29)
    return np.maximum(weights / scale, weights > 0).astype(np.int64)


def _graph(tiling: Tiling) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tiles as a graph: each maker joined to each reader by the bytes that go between; shared weights as stars."""
    tasks = tiling.tasks
    counts = np.diff(tasks.starts)
    makers = np.where(
        tasks.maker >= 0, tasks.maker, tasks.readers[np.minimum(tasks.starts[:-1], len(tasks.readers) - 1)]
    )
    a = np.repeat(tasks.vertex[makers], counts)
    b = tasks.vertex[tasks.readers]
    w = np.repeat(tasks.nbytes * (1 + tasks.returns), counts)
    a, b, w = a[a != b], b[a != b], w[a != b]
    key = np.concatenate([a * tiling.vertices + b, b * tiling.vertices + a])
    unique, where = np.unique(key, return_inverse=True)
    total = np.bincount(where, weights=np.concatenate([w, w])).astype(np.int64)
    starts = np.searchsorted(unique // tiling.vertices, np.arange(tiling.vertices + 1))
    return starts, unique % tiling.vertices, _small(total)


def _constraints(tiling: Tiling) -> np.ndarray:
    """One column per heavy layer."""
    table = np.zeros((tiling.vertices, max(1, len(tiling.layers))))
    for layer in range(len(tiling.layers)):
        table[:, layer] = np.where(tiling.layer == layer, tiling.work, 0)
    if not tiling.layers:
        table[:, 0] = tiling.work
    return np.round(table / table.sum(axis=0) * UNIT).astype(np.int64)


def mt_kahypar(tiling: Tiling, task: Task, *, balance: float, runs: Runs) -> Made:
    """The best of several runs under one balance of all work."""
    graph = _Weighed(tiling.work, tiling.starts, tiling.pins, tiling.weight)
    found, seconds = _mt_kahypar(graph, task, balance, runs)
    return min(found, key=lambda home: crossing(task, home)), seconds


def mt_kahypar_columns(tiling: Tiling, task: Task, *, balance: float, runs: Runs) -> Made:
    """The same on columns of tiles at one place of every heavy layer; None where the layers have different places."""
    joined = columns(tiling)
    if joined is None:
        return None, 0.0
    of, count = joined
    coarse = contract(task, of, count)
    work = np.bincount(of, weights=tiling.work, minlength=count)
    graph = _Weighed(work, coarse.starts, coarse.pins, coarse.weight)
    found, seconds = _mt_kahypar(graph, task, balance, runs)
    return min((home[of] for home in found), key=lambda home: crossing(task, home)), seconds


@dataclass(frozen=True)
class _Weighed:
    """A hypergraph with one weight for each vertex."""

    work: np.ndarray
    starts: np.ndarray
    pins: np.ndarray
    weight: np.ndarray


def _mt_kahypar(graph: _Weighed, task: Task, balance: float, runs: Runs) -> tuple[list[np.ndarray], float]:
    module, library = peer("mtkahypar"), _library()
    whole = np.maximum(1, np.round(graph.work / graph.work.sum() * UNIT)).astype(int).tolist()
    context = library.context_from_preset(module.PresetType.HIGHEST_QUALITY)
    context.set_partitioning_parameters(task.machines, balance - 1, module.Objective.KM1)
    context.logging = False

    def one(seed: int) -> np.ndarray:
        nets = [graph.pins[a:b].tolist() for a, b in itertools.pairwise(graph.starts)]
        module.set_seed(seed)
        made = library.create_hypergraph(context, len(whole), len(nets), nets, whole, graph.weight.tolist())
        result = made.partition(context)
        return np.array([result.block_id(v) for v in range(len(whole))], np.int64)

    given = [graph.work, graph.starts, graph.pins, graph.weight, balance, task.machines]
    return runs.of("mtkahypar", given, one)


def _best(task: Task, found: list[np.ndarray]) -> np.ndarray:
    """Fewest bytes among those that keep the caps; if none does, the one that breaks them least."""
    if not found:
        return np.zeros(len(task.load), np.int64)
    return min(
        found,
        key=lambda home: (
            excess(task, home) > 0,
            crossing(task, home) if excess(task, home) == 0 else 0,
            excess(task, home),
        ),
    )
