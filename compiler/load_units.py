"""Checks of the units in a plan: every value lies on a unit that its machine has, and every instruction finds its values there."""

from __future__ import annotations

from collections.abc import Mapping

from rainshed.compiler.machines import Machine
from rainshed.compiler.plan import ARENA, FED, Assign, Free, Instruction, Program, Recv, Run, Send
from rainshed.compiler.units import HOST
from rainshed.ops.errors import PlanError
from rainshed.ops.op import MAX_BYTES, Op


def check_units(program: Program, path: str, machine: Machine, ops: Mapping[str, Op]) -> None:
    """Raises PlanError where a value or an instruction is on a unit that cannot hold or do it.

    In  the numbers of values and the names of ops are those of the program and of `ops`
    """
    known = {HOST, *(u.name for u in machine.units)}
    for i, value in enumerate(program.values):
        if value.unit not in known:
            raise _wrong(
                f"{path}.values[{i}]", f"{machine.name} has no unit {value.unit!r}", has=", ".join(sorted(known))
            )
        if value.place == FED and value.unit != HOST:
            raise _wrong(f"{path}.values[{i}]", f"what is fed lies on the host, not on {value.unit}")
        if value.place == ARENA and value.offset % 64:
            raise _wrong(f"{path}.values[{i}]", f"offset {value.offset} is not a multiple of 64")
    for name, nbytes in program.unit_arenas.items():
        if name not in known or name == HOST or not 0 <= nbytes <= MAX_BYTES:
            raise _wrong(f"{path}.unit_arenas", f"{machine.name} has no unit {name!r} with {nbytes} bytes")
    for i, instruction in enumerate(program.instructions):
        wrong = _fault(program, instruction, ops)
        if wrong:
            raise _wrong(f"{path}.instructions[{i}]", wrong)
    for i, output in enumerate(program.outputs):
        if program.values[output.value].unit != HOST:
            raise _wrong(f"{path}.outputs[{i}]", "an output must be on the host")


def _fault(program: Program, instruction: Instruction, ops: Mapping[str, Op]) -> str:
    """What is wrong with where an instruction finds its values, or ""."""
    values = program.values
    match instruction:
        case Send(value=value) | Recv(value=value):
            return (
                ""
                if values[value].unit == HOST
                else f"value {value} is sent or received, but lies on {values[value].unit}"
            )
        case Assign(variable=variable, value=value):
            same = values[variable].unit == values[value].unit
            return "" if same else f"a variable on {values[variable].unit} is given a value on {values[value].unit}"
        case Run(op=op, inputs=inputs, outputs=outputs):
            units = {values[v].unit for v in (*inputs, *outputs)}
            if len(units) > 1:
                return "" if op == "copy" else f"{op} has values on {' and '.join(sorted(units))}"
            if units - {HOST} and op != "constant" and ops[op].cuda is None:
                return f"{op} has no kernel for {', '.join(units)}"
            return ""
        case Free():
            return ""


def _wrong(path: str, what: str, **detail: str) -> PlanError:
    return PlanError(f"{path}: {what}", **detail)
