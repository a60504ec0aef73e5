"""Follows values through a plan: who made them, through which machines they came, who reads them."""

from __future__ import annotations

from collections.abc import Iterable

from rainshed.compiler.plan import Plan, Recv, Run, Send, Transfer

# Ops by which the compiler brings parts together and takes them apart: what they give is the value that they read.
_MOVING = ("assemble", "slice")


class Trail:
    """An index of a plan.

    made  machine -> value -> the Run or Recv that gave it
    fed   machine -> value -> the name of the input that it is a part of
    """

    def __init__(self, plan: Plan) -> None:
        self.made: dict[str, dict[int, Run | Recv]] = {}
        self.fed: dict[str, dict[int, str]] = {}
        self._labels: dict[str, list[str]] = {}
        self._sent: dict[int, tuple[str, int]] = {}
        self._got: dict[int, int] = {}
        self._first: dict[tuple[str, int], Run] = {}
        self._variables: dict[str, list[tuple[str, int]]] = {}
        for p in plan.programs:
            made = self.made[p.machine] = {}
            self.fed[p.machine] = {f.value: f.name for f in p.feeds}
            self._labels[p.machine] = [v.of or f"{p.machine}:{i}" for i, v in enumerate(p.values)]
            for v in p.variables:
                self._variables.setdefault(v.name, []).append((p.machine, v.value))
            for step in p.instructions:
                if isinstance(step, Run):
                    made.update(dict.fromkeys(step.outputs, step))
                    for value in step.inputs:
                        self._first.setdefault((p.machine, value), step)
                elif isinstance(step, Recv):
                    made[step.value] = step
                    self._got[step.key] = step.value
                elif isinstance(step, Send):
                    self._sent[step.key] = p.machine, step.value

    def label(self, machine: str, value: int) -> str:
        """The name that the parts of one value share."""
        return self._labels[machine][value]

    def origin(self, machine: str, value: int) -> tuple[str, int]:
        """The machine and number under which the value was made, before any sending."""
        passed = set()
        while (machine, value) not in passed:
            passed.add((machine, value))
            step = self.made[machine].get(value)
            if not isinstance(step, Recv) or step.key not in self._sent:
                break
            machine, value = self._sent[step.key]
        return machine, value

    def maker(self, machine: str, value: int) -> Run | None:
        origin, number = self.origin(machine, value)
        step = self.made[origin].get(number)
        return step if isinstance(step, Run) else None

    def maker_of_transfer(self, transfer: Transfer) -> Run | None:
        sent = self._sent.get(transfer.key)
        return self.maker(*sent) if sent else None

    def reader_of_transfer(self, transfer: Transfer) -> Run | None:
        """The first op that computes with what arrived."""
        value = self._got.get(transfer.key)
        run = None if value is None else self._first.get((transfer.to, value))
        while run is not None and run.op in _MOVING:
            beyond = self._first.get((transfer.to, run.outputs[0]))
            if beyond is None or beyond is run:
                break
            run = beyond
        return run

    def name_of_transfer(self, transfer: Transfer) -> str:
        """The name of the value that it is a part of."""
        sent = self._sent.get(transfer.key)
        return self._labels[sent[0]][sent[1]] if sent else transfer.of

    def variable_reader(self, name: str) -> Run | None:
        """The first op that reads a part of the variable where it lives."""
        runs: Iterable[Run | None] = (self._first.get(at) for at in self._variables.get(name, ()))
        return next((r for r in runs if r is not None), None)


def variable_name(slot: str) -> str:
    """The variable that an optimizer's slot `variable/slot` belongs to."""
    return slot.rpartition("/")[0]
