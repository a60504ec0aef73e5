"""compile: a graph and a cluster in, a plan out. The compiler is the tuple PASSES."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from msgspec import structs

from rainshed.compiler.check import check_graph
from rainshed.compiler.collector import at_rest
from rainshed.compiler.drafts import Draft, draft, shortest
from rainshed.compiler.explain import kept_candidates
from rainshed.compiler.limits import memory_lack, memory_needed, spread_memory
from rainshed.compiler.machines import Cluster
from rainshed.compiler.partition.strategy import (
    GUIDED,
    MIDDLE_S,
    NAMES,
    SLICED,
    STRATEGIES,
    guided_seconds,
    known,
    rank,
    tiles_of,
)
from rainshed.compiler.passes.differentiate import differentiate
from rainshed.compiler.passes.fold_products import fold_products
from rainshed.compiler.passes.fuse import fuse
from rainshed.compiler.passes.fuse_sums import fuse_sums
from rainshed.compiler.passes.insert_send_recv import insert_send_recv
from rainshed.compiler.passes.join_products import join_products
from rainshed.compiler.passes.lower_precision import FLOAT32, PRECISIONS, lower_precision, lowered_text
from rainshed.compiler.passes.merge_equal import merge_equal
from rainshed.compiler.passes.pack_products import pack_products
from rainshed.compiler.passes.place import place
from rainshed.compiler.passes.pool_first import pool_first
from rainshed.compiler.passes.rematerialize import rematerialize, second_flops, worth_trying
from rainshed.compiler.passes.repeat import repeat
from rainshed.compiler.passes.simplify import simplify
from rainshed.compiler.passes.split import split
from rainshed.compiler.passes.tidy import tidy
from rainshed.compiler.passes.widen import widen
from rainshed.compiler.pins import pinned
from rainshed.compiler.plan import Plan, Program
from rainshed.compiler.reach import all_linked, parts_of, unlinked, widened
from rainshed.compiler.setting import Setting
from rainshed.ops.errors import CompileError, ContractError, UsageError
from rainshed.ops.ir import Graph
from rainshed.ops.types import Batch, TensorType, whole_of

Pass = Callable[[Graph, Setting], Graph]

PASSES: tuple[Pass, ...] = (
    pool_first,  # relu and bias in front of a pool -> behind it
    differentiate,  # loss -> loss and one gradient per variable
    simplify,  # x + 0, x * 1, constants
    merge_equal,  # equal expressions -> one node
    lower_precision,  # with precision="bf16": products read bfloat16, rounded once before a value is kept or sent
    rematerialize,  # where memory is short: values of the forward part are computed a second time for backward
    split,  # large nodes -> tiles, along axes their signatures allow
    place,  # every tile -> a device; fewest bytes over the network
    insert_send_recv,  # every crossing edge -> send and recv
    widen,  # bfloat16 -> a float32 copy on the reader's machine, where its kernel does not read bfloat16
    tidy,  # what is only moved about is moved once
    join_products,  # products of many values by one weight -> one product
    fold_products,  # transposes, sums and steps of weights -> part of the matrix product beside them
    pack_products,  # a weight that many products of few rows read -> laid out for them once
    repeat,  # a cheap element-wise value -> one for each reader
    fuse,  # element-wise neighbours on one device -> one kernel
    fuse_sums,  # a large sum, and what it alone reads -> one kernel
)  # then schedule, and lower (with allocate): graph -> Plan, one list of Run/Send/Recv/Free per machine

NO_PINS: Mapping[str, str] = MappingProxyType({})
PLANS = 5  # that are made and simulated, of the strategies with the best estimates
MUCH = 40_000  # instructions of all plans that are made, from the third plan on
MUCH_OF_TWO = 600_000  # of two plans; beyond it only a plan that fits is looked for
WORSE = 1.5  # an estimate so many times the best one is not followed up

SHARED = PASSES[: PASSES.index(split)]  # the same whatever the strategy
PLACED = PASSES[PASSES.index(split) :]


@at_rest()
def compile(
    graph: Graph,
    cluster: Cluster,
    *,
    seed: int = 0,
    strategy: str = "auto",
    fuse: bool = True,
    place: Mapping[str, str] = NO_PINS,
    rematerialize: bool = False,
    precision: str = FLOAT32,
) -> Plan:
    """The plan of a graph on a cluster. Where two machines have no link, it uses only machines that are all linked.

    strategy  the start of the search for layouts (see compiler/partition/strategy.py); "auto": all, of which the
              best few by estimate become plans, and the plan whose simulated step is shortest is kept
    place     what must be where: a layer, variable or value of the graph, or a pattern of their names -> its machine
    rematerialize  when no plan fits the memory, compute values of the forward part a second time for backward instead of keeping
              them; no more of them than it takes, so a plan that fits stays as it is
    precision what products and convolutions of float32 read: "float32", or "bf16": operands rounded to bfloat16, sums and
              variables in float32, as compiler/passes/lower_precision.py says
    Raises    CompileError if the graph has no outputs, its batch is not bound, pins cannot hold, or no plan fits the memory;
              UsageError for a strategy, a precision, or a name in `place`, that does not exist
    """
    graph = _checked(graph, cluster, place)
    setting = Setting(cluster=cluster, seed=_known_seed(seed), fuse=fuse, precision=_known_precision(precision))
    if strategy != "auto" and strategy not in NAMES:
        raise UsageError(f"there is no strategy {strategy!r}", known=", ".join(["auto", *NAMES]))
    graph = run_passes(graph, setting, SHARED)
    try:
        plan = _linked_best(graph, setting, strategy)
    except ContractError:
        raise
    except CompileError as error:
        smaller = _with_less_memory(graph, setting, strategy) if rematerialize else None
        if smaller is None:
            if rematerialize:
                raise _exhausted(error) from None
            raise
        plan = smaller
    return (
        plan if precision == FLOAT32 else structs.replace(plan, notes={**plan.notes, "precision": lowered_text(graph)})
    )


def _exhausted(error: CompileError) -> CompileError:
    """The error without the advice to do what was tried."""
    tried = {"hint": "a smaller batch; computing activations again instead of keeping them was tried"}
    return type(error)(error.message, **{**error.detail, **(tried if "hint" in error.detail else {})})


def _known_precision(precision: str) -> str:
    if precision not in PRECISIONS:
        raise UsageError(f"there is no precision {precision!r}", known=", ".join(PRECISIONS))
    return precision


def _known_seed(seed: int) -> int:
    number = whole_of(seed)
    if number is None:
        raise UsageError(f"a seed is a whole number; found {seed!r}")
    return number


def _with_less_memory(graph: Graph, setting: Setting, strategy: str) -> Plan | None:
    """The first plan that fits, if more and more of the forward part is computed a second time; None if none does."""
    for smaller in worth_trying(graph, setting):
        try:
            plan = _linked_best(smaller, replace(setting, thrifty=True), strategy)
        except ContractError:
            raise
        except CompileError:
            continue
        second = sum(1 for node in smaller.nodes() if node.origin.again)
        note = f"{second} values, {second_flops(smaller)} operations a second time in each step"
        return structs.replace(plan, notes={**plan.notes, "rematerialized": note})
    return None


def _linked_best(graph: Graph, setting: Setting, strategy: str) -> Plan:
    """The best plan on the machines of the cluster, or on some of them that are all linked."""
    if all_linked(setting.cluster):
        return _best(graph, setting, strategy)
    return _best_part(graph, setting, strategy, parts_of(setting.cluster, graph))


def _best_part(graph: Graph, setting: Setting, strategy: str, parts: Sequence[Cluster]) -> Plan:
    """The best plan on one of some parts of the cluster, as one of the whole cluster. Raises CompileError if it fits none."""
    plans: list[Plan] = []
    refused: dict[str, str] = {}
    for part in parts:
        if plans and len(plans) + len(refused) >= PLANS:
            break
        try:
            plans.append(_best(graph, replace(setting, cluster=part, shared={}), strategy))
        except ContractError:
            raise
        except CompileError as error:
            refused[f"on {', '.join(part.names)}"] = "; needed: ".join(
                filter(None, (error.message, error.detail.get("needed")))
            )
    if not plans:
        raise CompileError("no machines that are all linked have the memory", **refused, **unlinked(setting.cluster))
    return widened(min(plans, key=lambda p: (p.prediction.step_s, p.prediction.bytes)), setting.cluster)


def _best(graph: Graph, setting: Setting, strategy: str) -> Plan:
    """The plan with the shortest step on machines that are all linked. Raises CompileError if none fits their memory."""
    cluster = setting.cluster
    lack = memory_lack(graph, cluster)
    if lack is not None:
        raise lack
    estimates = _promising(graph, setting) if strategy == "auto" else {strategy: 0.0}
    drafts: dict[str, Draft] = {}
    refused: dict[str, str] = {}
    large: dict[str, tuple[Program, ...]] = {}
    work = tiles = 0
    for name in _turns(estimates):
        own = tiles_of(graph, replace(setting, strategy=name))
        expected = work * (1 + own / tiles) if tiles else 0.0
        most = MUCH if len(drafts) > 1 else MUCH_OF_TWO
        if len(drafts) >= PLANS or (drafts and (expected > most or estimates[name] > WORSE * min(estimates.values()))):
            break
        made = _fitting(graph, replace(setting, strategy=name))
        work, tiles = work + made.work, tiles + own
        if made.lack:
            refused[name], large[name] = made.lack, made.programs
        else:
            drafts[name] = made
    if not drafts:
        found = {f"strategy {name}": text for name, text in refused.items()}
        needed = memory_needed(large, cluster)
        hint = "a smaller batch, or rematerialize=True, which computes activations again instead of keeping them"
        raise CompileError(
            "no plan fits into the machines' memory", needed=needed, **found, **spread_memory(graph, cluster), hint=hint
        )
    best, plan = shortest(drafts)
    steps = {name: (made.step_s, made.nbytes) for name, made in drafts.items()}
    steps[best] = plan.prediction.step_s, plan.prediction.bytes
    tried = {n: f"{step_s * 1e3:.3f} ms, {nbytes} bytes" for n, (step_s, nbytes) in steps.items()} | refused
    notes = {"strategy": best, **{f"tried {n}": text for n, text in tried.items()}}
    notes |= {
        f"thought of {n}": f"about {s * 1e3:.3f} ms" for n, s in estimates.items() if n not in tried and s < math.inf
    }
    return structs.replace(plan, notes=notes, candidates=kept_candidates(known(graph, setting, best), best))


def _promising(graph: Graph, setting: Setting) -> dict[str, float]:
    """The strategies to make plans of, the best first, with the estimated seconds of a step; at the end those for little memory."""
    if len(setting.cluster.machines) == 1:
        return {"one": 0.0}
    found = rank(graph, setting)
    shortest = min(found.values())
    guided = guided_seconds(graph, setting) if shortest > MIDDLE_S else None
    if guided is not None and guided < shortest:
        found = {GUIDED: guided, **found}
    return found | {name: math.inf for name, s in STRATEGIES.items() if s.last}


def _turns(estimates: Mapping[str, float]) -> list[str]:
    """The strategies in the order in which plans are made: after the best one the best that gives layers other machines. Estimates
    of strategies that give layers the same machines err alike."""
    order = list(estimates)
    kinds = {n: (s.spread.parts, s.spread.stages) for n, s in STRATEGIES.items()}
    kinds[GUIDED] = next((kinds[n] for n in order if n in STRATEGIES and n not in SLICED), (1, 1))
    other = next((n for n in order if kinds[n] != kinds[order[0]] and estimates[n] < math.inf), None)
    if other is not None and estimates[other] <= WORSE * estimates[order[0]]:
        order.remove(other)
        order.insert(1, other)
    return order


def _fitting(graph: Graph, setting: Setting) -> Draft:
    """A plan to be, in a thrifty order, or without GPUs, if it fits only so."""
    found = draft(run_passes(graph, setting, PLACED), setting)
    thrifty = replace(setting, thrifty=True)
    if found.lack and not setting.thrifty and len(setting.cluster.machines) > 1:
        found = draft(run_passes(graph, thrifty, PLACED), thrifty)
    if found.lack and any(p.unit_arenas for p in found.programs):
        hosts = replace(thrifty, units=False)
        found = draft(run_passes(graph, hosts, PLACED), hosts)
    return found


def _checked(graph: Graph, cluster: Cluster, place: Mapping[str, str] = NO_PINS) -> Graph:
    """The graph with its pins, its variables kept whatever becomes of their readers. Raises CompileError where it cannot be
    compiled."""
    if not isinstance(cluster, Cluster):
        hint = "Cluster.local(n), or Cluster.from_toml(path)"
        raise UsageError(f"a graph is compiled for a Cluster; found {cluster!r}", hint=hint)
    if not isinstance(graph, Graph):
        hint = "rs.graph(outputs=...) or rs.graph(loss=...) makes one of nodes"
        raise UsageError(f"a graph is compiled; found {type(graph).__name__}", hint=hint)
    if not graph.outputs and not graph.updates:
        raise CompileError("the graph has no outputs: there is nothing to compute")
    if not graph.bound:
        unbound = next(n for n in graph.nodes() if isinstance(n.type, TensorType) and Batch in map(type, n.type.shape))
        hint = "graph.bind(batch=...) gives it a size"
        raise CompileError(f"the batch axis B of {unbound!r} is not bound", built_at=unbound.origin, hint=hint)
    if graph.loss is not None and graph.loss not in graph.outputs:
        raise CompileError(f"the loss {graph.loss!r} is not an output", outputs=", ".join(graph.outputs) or "none")
    graph.sources("input")
    graph = pinned(graph, cluster, place)
    variables = graph.variables
    for name, node in graph.updates.items():
        if name not in variables:
            raise CompileError(f"an update names {name!r}, which is no variable of the graph", built_at=node.origin)
        if node.type != variables[name].type:
            raise CompileError(
                f"variable {name!r} is {variables[name].type}; its update is {node.type}", built_at=node.origin
            )
    return replace(graph, kept=tuple(variables.values()))


def run_passes(graph: Graph, setting: Setting, passes: tuple[Pass, ...]) -> Graph:
    """The graph after these passes; with RAINSHED_CHECK=1 each pass's contract is checked."""
    for step in passes:
        graph = step(graph, setting)
        if os.environ.get("RAINSHED_CHECK") == "1":
            check_graph(graph, after=step.__name__)
    return graph


def show(
    graph: Graph,
    cluster: Cluster,
    after: str,
    *,
    seed: int = 0,
    strategy: str = "longest",
    place: Mapping[str, str] = NO_PINS,
    precision: str = FLOAT32,
) -> Graph:
    """The graph as it stands after one pass. Raises UsageError for a pass that does not exist; else as `compile` does."""
    names = [p.__name__ for p in PASSES]
    if after not in names:
        raise UsageError(f"there is no pass {after!r}", passes=", ".join(names))
    setting = Setting(cluster=cluster, seed=seed, strategy=strategy, precision=_known_precision(precision))
    last = names.index(after) + 1
    graph = run_passes(_checked(graph, cluster, place), setting, SHARED[:last])
    if last > len(SHARED) and not all_linked(cluster):
        setting = replace(setting, cluster=parts_of(cluster, graph)[0])
    return run_passes(graph, setting, PASSES[len(SHARED) : last])
