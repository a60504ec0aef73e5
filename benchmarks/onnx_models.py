"""The nine networks in the onnx wheel: imported, held to the outputs shipped with them, split over machines, run, differentiated.

Their weights are one number each, so that scores of one layer are all equal and a softmax over them shows little: the check
before it is that these scores are equal within rounding. `--random` also gives them random weights and compares with onnx's own
slow evaluator.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test import data
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import rainshed as rs
import rainshed.onnx

LIGHT = Path(next(iter(data.__path__))) / "light" if hasattr(data, "__path__") else Path(data.__file__).parent / "light"
NAMES = sorted(path.stem.removeprefix("light_") for path in LIGHT.glob("*.onnx"))


class LRN(OpRun):
    """The operator as its definition says; onnx 1.23's own evaluator covers only as many channels as there are images."""

    def _run(self, x: np.ndarray, alpha: float, beta: float, bias: float, size: int) -> tuple[np.ndarray]:
        channels = x.shape[1]
        low, high = (size - 1) // 2, size // 2
        parts = [(x[:, max(0, c - low) : c + high + 1] ** 2).sum(axis=1) for c in range(channels)]
        return ((x / (bias + alpha / size * np.stack(parts, axis=1)) ** beta).astype(x.dtype),)


def feed(shape: Iterable[int]) -> np.ndarray:
    """The input that the shipped outputs belong to: onnx.backend.test.runner.Runner.generate_dummy_data."""
    dims = tuple(shape)
    size = np.prod(dims)
    return (np.arange(size).reshape(dims) / size).astype(np.float32)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """The greatest difference, relative to the greatest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def shipped(name: str) -> np.ndarray:
    tensor = onnx.TensorProto.FromString((LIGHT / f"light_{name}_output_0.pb").read_bytes())
    return numpy_helper.to_array(tensor)


def before_softmax(model: onnx.ModelProto) -> str | None:
    last = model.graph.node[-1]
    return last.input[0] if last.op_type == "Softmax" else None


def randomised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with random weights, in a version whose batch normalisation onnx's evaluator reads as the definition says."""
    random = np.random.default_rng(0)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape":
            nodes.append(node)
            continue
        shape = shapes[node.input[0]]
        spread = np.sqrt(2 / max(1, np.prod(shape[1:])))
        values = random.normal(0, spread, shape) if len(shape) > 1 else random.uniform(0.5, 1.5, shape)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.ir_version = 8
    return onnx.version_converter.convert_version(model, 15)


def measure(name: str, machines: int, batch: int, random: bool) -> dict[str, Any]:
    path = LIGHT / f"light_{name}.onnx"
    row: dict[str, Any] = {"net": name}
    row["load_s"], model = seconds(lambda: rs.onnx.load(path))
    ((key, x),) = model.inputs.items()
    found = rs.evaluate(model.graph, {x.name: feed(x.shape)})
    row["error"] = error(next(iter(found.values())), shipped(name))
    scores = before_softmax(onnx.load(path))
    if scores is not None:
        values = rs.evaluate(rs.onnx.load(path, outputs=[scores]).graph, {x.name: feed(x.shape)})[scores]
        row["spread_of_scores"] = float(np.ptp(values) / values.max())
    model = rs.onnx.load(path, batch=batch)
    image = np.random.default_rng(0).normal(size=model.inputs[key].shape).astype(np.float32)
    row["nodes"] = len(model.graph.nodes())
    row["parameters"] = sum(int(np.prod(v.shape)) for v in model.graph.variables.values())
    cluster = rs.Cluster.local(machines)
    row["compile_s"], plan = seconds(lambda: rs.compile(model.graph, cluster))
    row["predicted_step_s"], row["bytes"] = plan.prediction.step_s, plan.prediction.bytes
    target = scores or next(iter(model.outputs))
    inner = rs.onnx.load(path, batch=batch, outputs=[target])
    expected = rs.evaluate(inner.graph, {x.name: image})[target]
    with rs.Session(rs.compile(inner.graph, cluster, strategy="space"), backend="threads") as session:
        row["plan_error"] = error(session.run({x.name: image})[target], expected)
    loss = rs.graph(loss=rs.mean(rs.square(next(iter(model.outputs.values())))))
    row["compile_training_s"], plan = seconds(lambda: rs.compile(loss, cluster))
    row["training_instructions"] = sum(len(p.instructions) for p in plan.programs)
    if random:
        weighted = randomised(onnx.load(path))
        target = before_softmax(weighted) or weighted.graph.output[0].name
        del weighted.graph.output[1:]
        weighted.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(target, onnx.TensorProto.FLOAT, None))
        model = rs.onnx.load(weighted)
        image = np.random.default_rng(1).normal(size=model.inputs[key].shape).astype(np.float32)
        (reference,) = ReferenceEvaluator(weighted, new_ops=[LRN]).run([target], {key: image})
        row["random_error"] = error(rs.evaluate(model.graph, {x.name: image})[target], reference)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--machines", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--random", action="store_true", help="with random weights, too: up to two minutes for each")
    parser.add_argument("--json", action="store_true", help="one JSON object: {rows: [...]}")
    args = parser.parse_args()
    rows = []
    for name in args.names:
        rows.append(measure(name, args.machines, args.batch, args.random))
        if not args.json:
            print(
                "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                flush=True,
            )
    if args.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
