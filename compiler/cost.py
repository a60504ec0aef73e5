"""What things take: seconds of a node on a device."""

from __future__ import annotations

from dataclasses import dataclass

from rainshed.compiler.machines import Cluster, Machine, Rate, Unit
from rainshed.ops.ir import Device, Known, Node
from rainshed.ops.op import Op
from rainshed.ops.types import bfloat16

# Free at every machine: fed to it, or written into its program.
FREE = frozenset({"input", "constant", "step"})
# Ops that only say where a value is; the runtime does not run a kernel for them, or its time belongs to the link.
BF16_PRODUCT = "bf16_product"  # the rate of products that read bfloat16; where there is none: that of products
WEIGHTLESS = frozenset({"input", "variable", "constant", "step", "send", "recv", "pick"})


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a machine's host is at one op. `rate`: as measured; None: the machine's own figures are all there is."""

    machine: Machine
    rate: Rate | None

    def seconds(self, flops: float, nbytes: float, calls: int = 1) -> float:
        """Of so many calls together: by measured rates the sum of their parts; else the slower of computing and of moving bytes.

        Source  Williams, Waterman, Patterson 2009, "Roofline"
        """
        rate, machine = self.rate, self.machine
        if rate is None:
            return max(flops / machine.flops, nbytes / machine.bytes_per_s) + calls * machine.overhead_s
        return flops / rate.flops_per_s + nbytes / rate.bytes_per_s + calls * rate.overhead_s


def pace(machine: Machine, op: Op) -> Pace:
    """The measured rate of the op or of its kind of work; where there is none, that of the machine."""
    return Pace(machine, machine.rate(op.name, op.work))


def unit_seconds(unit: Unit, flops: float, nbytes: float) -> float:
    """Seconds of one kernel on a unit."""
    return max(flops / unit.flops, nbytes / unit.bytes_per_s) + unit.overhead_s


def copy_seconds(unit: Unit, nbytes: int) -> float:
    """Seconds of a copy between a machine's memory and that of one of its units."""
    return unit.overhead_s + nbytes / unit.copy_bytes_per_s


class Clock:
    """The seconds of nodes on the devices of a cluster, worked out once for all nodes that are alike."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._seconds: dict[Device, dict[Known, float]] = {}

    def seconds(self, node: Node, device: Device) -> float:
        """As the function `seconds`."""
        if node.op.name in WEIGHTLESS:
            return 0.0
        if node.op.name == "copy":  # depends on where its value is, too
            return seconds(node, self.cluster, device)
        found = self._seconds.setdefault(device, {})
        if node.known not in found:
            found[node.known] = seconds(node, self.cluster, device)
        return found[node.known]


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
    gpu = machine.unit(device.unit)
    if gpu is not None:
        return unit_seconds(gpu, cost.flops, cost.nbytes or 0)
    if node.op.work == "product" and node.inputs[0].dtype is bfloat16:
        return Pace(machine, machine.rate(BF16_PRODUCT, node.op.work)).seconds(cost.flops, cost.nbytes or 0)
    return pace(machine, node.op).seconds(cost.flops, cost.nbytes or 0)
