"""A machine's recorder and its program, as the trace that travels and is drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from rainshed.compiler.plan import Program, Run, Transfer
from rainshed.runtime.kernels import type_of
from rainshed.runtime.trace import MachineTrace, Recorder


def machine_trace(
    program: Program, transfers: Iterable[Transfer], recorder: Recorder, *, group: str = "", offset_ns: int = 0
) -> MachineTrace:
    """What one machine did, with the names of its instructions and transfers; `group` is the replica."""
    mine = {t.key: (t.of, t.nbytes, t.reason) for t in transfers if program.machine in (t.source, t.to)}
    return MachineTrace(
        name=f"{group}/{program.machine}" if group else program.machine,
        labels={i: _label(program, run) for i, run in enumerate(program.instructions) if isinstance(run, Run)},
        transfers=mine,
        threads={t.ident: t.name for t in threading.enumerate() if t.ident is not None},
        events=recorder.events(),
        dropped=recorder.dropped,
        offset_ns=offset_ns,
        group=group,
    )


def _label(program: Program, run: Run) -> tuple[str, dict[str, str | int]]:
    arguments: dict[str, str | int] = {
        "inputs": ", ".join(str(type_of(program.values[v])) for v in run.inputs),
        "outputs": ", ".join(str(type_of(program.values[v])) for v in run.outputs),
        "layer": run.scope,
        "line": run.line,
        "flops": run.flops,
        "nbytes": run.nbytes,
        "predicted_us": round(run.seconds * 1e6),
    }
    return run.op, {key: value for key, value in arguments.items() if value not in ("", 0)}
