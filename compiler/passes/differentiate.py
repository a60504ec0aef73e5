"""differentiate: a loss becomes the loss and one gradient per variable."""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from rainshed.compiler.setting import Setting
from rainshed.ops.gradient import gradients
from rainshed.ops.ir import Graph, Node, on_behalf
from rainshed.ops.source import step_op, variable_op


def differentiate(graph: Graph, setting: Setting) -> Graph:
    """Give each trainable variable its gradient, and move it by the graph's rule if there is one.

    In      graph.loss names a float scalar among the outputs, or is None: then nothing changes
    Out     without a rule: an output `grad/NAME` per trainable variable, in reverse order of use, of the variable's type;
            with a rule: an update per trainable variable and per slot, and the slots are variables `NAME/SLOT`
    Source  Dean et al. 2012, section 3 (downward phase); Griewank and Walther 2008
    """
    if graph.loss is None:
        return graph
    loss = graph.outputs[graph.loss]
    used = {n.name: n for n in graph.nodes() if n.op.name == "variable" and n.attrs["trainable"]}
    # The last layer's gradient is ready first: in this order its activations are freed first.
    names = list(reversed(used))
    grads = dict(zip(names, gradients(loss, [used[n] for n in names]), strict=True))
    if graph.rule is None:
        outputs = {**graph.outputs, **{f"grad/{name}": grad for name, grad in grads.items()}}
        return replace(graph, outputs=outputs)
    updates = dict(graph.updates)
    for name, grad in grads.items():
        updates.update(_moved(graph, used[name], grad))
    return replace(graph, updates=updates)


def _moved(graph: Graph, variable: Node, grad: Node) -> dict[str, Node]:
    assert graph.rule is not None
    with on_behalf(structs.replace(variable.origin, backward=True)):
        slots = {
            slot: variable_op(
                name=f"{variable.name}/{slot}", shape=variable.shape, dtype=variable.dtype, init=value, trainable=False
            )
            for slot, value in graph.rule.slots.items()
        }
        w, moved = graph.rule.build(variable, grad, slots, step_op())
    return {variable.name: w, **{f"{variable.name}/{slot}": node for slot, node in moved.items()}}
