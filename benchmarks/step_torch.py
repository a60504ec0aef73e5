"""The networks of `step.py` in PyTorch, eager or by torch.compile, from weights under the names of our variables."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import step_shapes_torch
from benchmarks.step_all import NETS

Tensors = dict[str, torch.Tensor]
Loss = Callable[[Tensors, torch.Tensor, torch.Tensor], torch.Tensor]
Arrays = Mapping[str, np.ndarray]


FORMATS = (torch.contiguous_format, torch.channels_last)
TRIED = 4  # steps of each form of images, the first of which warms up


def make_step(net: str, arrays: Arrays, rate: float, *, compiled: bool, once: bool = False) -> Callable[[], float]:
    """A function that takes one step of SGD and gives the loss before it; of images, in the form that is faster here.

    once  whether it will be called a single time: then nothing is tried before
    """
    if arrays["x"].ndim != 4 or once:
        return _step(net, arrays, rate, compiled, FORMATS[0])
    best = min(FORMATS, key=lambda form: _seconds(_step(net, arrays, rate, compiled, form)))
    return _step(net, arrays, rate, compiled, best)


def _seconds(step: Callable[[], float]) -> float:
    times = []
    for _ in range(TRIED):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _step(net: str, arrays: Arrays, rate: float, compiled: bool, images: torch.memory_format) -> Callable[[], float]:
    x, labels = (torch.from_numpy(arrays[name].copy()) for name in ("x", "labels" if "labels" in arrays else "x"))
    if x.ndim == 4:
        x = x.permute(0, 3, 1, 2).contiguous(memory_format=images)
    weights = {name: a.copy() for name, a in arrays.items() if name not in ("x", "labels")}
    params = {name: torch.from_numpy(a) for name, a in _FORMS.get(net, step_shapes_torch.form)(weights).items()}
    params = {name: p.contiguous(memory_format=images) if p.ndim == 4 else p for name, p in params.items()}
    for tensor in params.values():
        tensor.requires_grad_()
    loss_of = LAYERS[net](params) if net in LAYERS else LOSSES[net]
    run = torch.compile(loss_of) if compiled else loss_of
    trained = [p for name, p in params.items() if not name.endswith("/zero")]
    optimizer = torch.optim.SGD(trained, lr=rate)

    def evaluate() -> float:
        with torch.inference_mode():
            return run(params, x, labels).item()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = run(params, x, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step if NETS[net].trains else evaluate


def _dense(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return torch.addmm(p[f"{name}/b"], x, p[f"{name}/w"])


def _speech(p: Tensors, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    for name in ("dense", "dense_1", "dense_2", "dense_3"):
        x = torch.sigmoid(_dense(p, name, x))
    return F.cross_entropy(_dense(p, "dense_4", x), labels)


def _mlp(p: Tensors, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    for name in ("dense", "dense_1"):
        x = torch.relu(_dense(p, name, x))
    return F.cross_entropy(_dense(p, "dense_2", x), labels)


def _convnet(p: Tensors, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    for name in ("conv2d", "conv2d_1", "conv2d_2"):
        x = F.max_pool2d(torch.relu(F.conv2d(x, p[f"{name}/w"], p[f"{name}/b"], padding="same")), 2)
    return F.cross_entropy(_dense(p, "dense_1", torch.relu(_dense(p, "dense", x.flatten(1)))), labels)


def _convnet_form(weights: Arrays) -> dict[str, np.ndarray]:
    """Filters as [out, in, rows, columns]; the layer behind reads channels first."""
    form = {n: w.transpose(3, 2, 0, 1).copy() for n, w in weights.items() if w.ndim == 4}
    return {**weights, **form, "dense/w": _channels_first(weights["dense/w"], weights["conv2d_2/b"].size)}


def _channels_first(w: np.ndarray, channels: int) -> np.ndarray:
    """The rows of a layer behind a flattened square image."""
    edge = round((w.shape[0] / channels) ** 0.5)
    return w.reshape(edge, edge, channels, -1).transpose(2, 0, 1, 3).reshape(w.shape)


def _lstm(params: Tensors) -> Loss:
    units = params["lstm/0/u"].shape[-1]
    layer = torch.nn.LSTM(params["lstm/0/w"].shape[1], units, num_layers=2, batch_first=True)
    flat = [params[f"lstm/{i}/{name}"] for i in (0, 1) for name in ("w", "u", "b", "zero")]
    for own, name in zip(flat, [n for names in layer.all_weights and layer._all_weights for n in names], strict=True):
        setattr(layer, name, torch.nn.Parameter(own.detach()))
    for i, group in enumerate(layer.all_weights):
        for name, parameter in zip(("w", "u", "b", "zero"), group, strict=True):
            params[f"lstm/{i}/{name}"] = parameter
            parameter.requires_grad_(name != "zero")

    def loss(p: Tensors, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        h, _ = layer(x)
        return F.cross_entropy(_dense(p, "dense", h.flatten(0, 1)), labels.flatten())

    return loss


def _lstm_form(weights: Arrays) -> dict[str, np.ndarray]:
    """Gates i, f, g, o under each other, as [gates * units, inputs]; our forget bias of 1 in the bias; no second bias."""
    found = {name: a for name, a in weights.items() if not name.startswith("lstm/")}
    for i in (0, 1):
        for name in ("w", "u"):
            a = weights[f"lstm/{i}/{name}"]
            found[f"lstm/{i}/{name}"] = a.transpose(0, 2, 1).reshape(-1, a.shape[1]).copy()
        b = weights[f"lstm/{i}/b"].reshape(4, -1) + np.array([0, 1, 0, 0], np.float32)[:, None]
        found[f"lstm/{i}/b"], found[f"lstm/{i}/zero"] = b.reshape(-1), np.zeros(b.size, np.float32)
    return found


def _local(p: Tensors, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    w = p["local2d/w"]  # [positions, window, filters]
    size = round((w.shape[1] // 3) ** 0.5)
    windows = F.unfold(x, size).permute(2, 0, 1)  # [positions, batch, window]
    edge = round(w.shape[0] ** 0.5)
    h = torch.tanh(torch.baddbmm(p["local2d/b"], windows, w))
    h = h.permute(1, 2, 0).reshape(x.shape[0], w.shape[2], edge, edge)
    return F.cross_entropy(_dense(p, "dense", F.max_pool2d(h, 2).flatten(1)), labels)


def _local_form(weights: Arrays) -> dict[str, np.ndarray]:
    """Windows flattened channels first; one product per position."""
    w, b = weights["local2d/w"], weights["local2d/b"]
    rows, columns, high, wide, channels, filters = w.shape
    flat = w.transpose(0, 1, 4, 2, 3, 5).reshape(rows * columns, channels * high * wide, filters)
    dense = _channels_first(weights["dense/w"], filters)
    return {**weights, "local2d/w": flat.copy(), "local2d/b": b.reshape(-1, 1, filters).copy(), "dense/w": dense}


LOSSES: Mapping[str, Loss] = {
    "speech": _speech,
    "mlp": _mlp,
    "convnet": _convnet,
    "local": _local,
    **step_shapes_torch.LOSSES,
}
LAYERS: Mapping[str, Callable[[Tensors], Loss]] = {"lstm": _lstm, "gru": step_shapes_torch.gru}
_FORMS: Mapping[str, Callable[[Arrays], dict[str, np.ndarray]]] = {
    "convnet": _convnet_form,
    "lstm": _lstm_form,
    "local": _local_form,
    "speech": dict,
    "mlp": dict,
    "gru": dict,
}
