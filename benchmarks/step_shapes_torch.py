"""The networks of `step_shapes.py` in PyTorch, from weights under the names of our variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.step_shapes import DEPTHS, HEADS

Tensors = dict[str, torch.Tensor]
Loss = Callable[[Tensors, torch.Tensor, torch.Tensor], torch.Tensor]
Arrays = Mapping[str, np.ndarray]


def form(weights: Arrays) -> dict[str, np.ndarray]:
    """Filters as [out, in, rows, columns]."""
    return {n: w.transpose(3, 2, 0, 1).copy() if w.ndim == 4 else w for n, w in weights.items()}


def _dense(p: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, p[f"{name}/w"].T, p[f"{name}/b"])


def _numbered(name: str, i: int) -> str:
    return f"{name}_{i}" if i else name


def _stack(depth: int) -> Callable[[Tensors, torch.Tensor], torch.Tensor]:
    def logits(p: Tensors, x: torch.Tensor) -> torch.Tensor:
        for i in range(depth):
            x = torch.relu(_dense(p, _numbered("dense", i), x))
        return _dense(p, _numbered("dense", depth), x)

    return logits


def _classified(logits: Callable[[Tensors, torch.Tensor], torch.Tensor]) -> Loss:
    return lambda p, x, labels: F.cross_entropy(logits(p, x), labels)


def _inference(p: Tensors, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return _stack(DEPTHS["inference"])(p, x).square().mean()


def _conv(p: Tensors, i: int, x: torch.Tensor, stride: int = 1, groups: int = 1) -> torch.Tensor:
    w = p[f"{_numbered('conv2d', i)}/w"]
    return F.conv2d(x, w, p.get(f"{_numbered('conv2d', i)}/b"), stride, w.shape[2] // 2, 1, groups)


def _strided(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    for i in range(3):
        x = torch.relu(_conv(p, i, x, 2))
    return _dense(p, "dense", x.mean((2, 3)))


def _separable(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    for i, stride in enumerate((1, 2, 1)):
        x = torch.relu(_conv(p, 2 * i, x, stride, x.shape[1]))
        x = torch.relu(_conv(p, 2 * i + 1, x))
    return _dense(p, "dense", x.mean((2, 3)))


def _residual(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    for block in range(2):
        inner = x
        for i in (2 * block, 2 * block + 1):
            norm = _numbered("batch_norm", i)
            inner = F.batch_norm(_conv(p, i, inner), None, None, p[f"{norm}/scale"], p[f"{norm}/shift"], True)
            inner = torch.relu(inner) if i == 2 * block else inner
        x = torch.relu(x + inner)
    return _dense(p, "dense", x.mean((2, 3)))


def _words(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    h = F.embedding_bag(x, p["embedding/w"], mode="mean")
    return _dense(p, "dense_1", torch.relu(_dense(p, "dense", h)))


def _attention(p: Tensors, x: torch.Tensor) -> torch.Tensor:
    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], p[f"{name}/scale"], p[f"{name}/shift"])

    h = norm("norm", x)
    q, k, v = (_dense(p, name, h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for name in "qkv")
    x = x + _dense(p, "mixed", F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    x = x + _dense(p, "down", torch.relu(_dense(p, "up", norm("norm2", x))))
    return _dense(p, "score", x.mean(1))


def _autoencoder(p: Tensors, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(_stack(3)(p, x), x)


def gru(params: Tensors) -> Loss:
    """The layer takes the weights out of `params`, and puts its own there."""
    layer = torch.nn.GRU(params["gru/w"].shape[1], params["gru/u"].shape[-1], batch_first=True)
    own = {"weight_ih_l0": "gru/w", "weight_hh_l0": "gru/u", "bias_ih_l0": "gru/b", "bias_hh_l0": "gru/bn"}
    for name, ours in own.items():
        value = params[ours].detach()
        if ours in ("gru/w", "gru/u"):
            value = value.transpose(1, 2).flatten(0, 1)
        elif ours == "gru/bn":
            value = torch.cat([torch.zeros(2 * len(value)), value])
        params[ours] = torch.nn.Parameter(value.reshape(-1) if ours == "gru/b" else value.contiguous())
        setattr(layer, name, params[ours])

    return lambda p, x, labels: F.cross_entropy(_dense(p, "dense", layer(x)[0][:, -1]), labels)


LOSSES: Mapping[str, Loss] = {
    **{net: _classified(_stack(depth)) for net, depth in DEPTHS.items()},
    "inference": _inference,
    "strided": _classified(_strided),
    "separable": _classified(_separable),
    "residual": _classified(_residual),
    "words": _classified(_words),
    "attention": _classified(_attention),
    "autoencoder": _autoencoder,
}
