"""What things take: seconds of a node on a device."""

from __future__ import annotations

from rainshed.compiler.machines import Cluster, Machine
from rainshed.ops.ir import Device, Node

# Ops that only say where a value is; the runtime does not run a kernel for them, or its time belongs to the link.
WEIGHTLESS = frozenset({"input", "variable", "constant", "step", "send", "recv", "pick"})


def roofline(machine: Machine, unit: str, flops: float, nbytes: float) -> float:
    """Seconds of one kernel: the slower of computing and of moving its bytes, and the overhead of the call.

    Source  Williams, Waterman, Patterson 2009, "Roofline"
    """
    gpu = machine.unit(unit)
    rate, band = (machine.flops, machine.bytes_per_s) if gpu is None else (gpu.flops, gpu.bytes_per_s)
    return max(flops / rate, nbytes / band) + machine.overhead_s


def seconds(node: Node, cluster: Cluster, device: Device) -> float:
    """Predicted seconds of a node on a device."""
    if node.op.name in WEIGHTLESS:
        return 0.0
    machine = cluster.machine(device.machine)
    cost = node.op.cost_of(node)
    if node.op.name == "copy":
        unit = machine.unit(device.unit) or machine.unit(node.inputs[0].device.unit if node.inputs[0].device else "")
        return machine.overhead_s + (node.type.nbytes / unit.copy_bytes_per_s if unit else 0.0)
    return roofline(machine, device.unit, cost.flops, cost.nbytes or 0)


