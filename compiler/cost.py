"""What things take: seconds of a node on a device."""

from __future__ import annotations

from rainshed.compiler.machines import Cluster, Machine, Unit
from rainshed.ops.ir import Device, Node

# Ops that only say where a value is; the runtime does not run a kernel for them, or its time belongs to the link.
WEIGHTLESS = frozenset({"input", "variable", "constant", "step", "send", "recv", "pick"})


def roofline(machine: Machine, unit: str, flops: float, nbytes: float) -> float:
    """Seconds of one kernel: the slower of computing and of moving its bytes, and the overhead of the call.

    Source  Williams, Waterman, Patterson 2009, "Roofline"
    """
    gpu = machine.unit(unit)
    if gpu is None:
        return max(flops / machine.flops, nbytes / machine.bytes_per_s) + machine.overhead_s
    return max(flops / gpu.flops, nbytes / gpu.bytes_per_s) + gpu.overhead_s


def copy_seconds(unit: Unit, nbytes: int) -> float:
    """Seconds of a copy between a machine's memory and that of one of its units."""
    return unit.overhead_s + nbytes / unit.copy_bytes_per_s


def seconds(node: Node, cluster: Cluster, device: Device) -> float:
    """Predicted seconds of a node on a device."""
    if node.op.name in WEIGHTLESS:
        return 0.0
    machine = cluster.machine(device.machine)
    cost = node.op.cost_of(node)
    source = node.inputs[0].device if node.op.name == "copy" else device
    if source is not None and source != device:
        unit = machine.unit(device.unit) or machine.unit(source.unit)
        return copy_seconds(unit, node.type.nbytes) if unit else machine.overhead_s
    return roofline(machine, device.unit, cost.flops, cost.nbytes or 0)


