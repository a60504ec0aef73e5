"""The networks of `step_shapes.py` in JAX, from weights under the names of our variables: logits, or the loss itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.step_shapes import DEPTHS, HEADS

Values = dict[str, jax.Array]
IMAGES = ("NHWC", "HWIO", "NHWC")


def _dense(p: Values, name: str, x: jax.Array) -> jax.Array:
    return x @ p[f"{name}/w"] + p[f"{name}/b"]


def _numbered(name: str, i: int) -> str:
    return f"{name}_{i}" if i else name


def _stack(depth: int) -> Callable[[Values, jax.Array], jax.Array]:
    def logits(p: Values, x: jax.Array) -> jax.Array:
        for i in range(depth):
            x = jax.nn.relu(_dense(p, _numbered("dense", i), x))
        return _dense(p, _numbered("dense", depth), x)

    return logits


def _inference(p: Values, x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(_stack(DEPTHS["inference"])(p, x)))


def _conv(p: Values, i: int, x: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
    name = _numbered("conv2d", i)
    w = p[f"{name}/w"]
    side = (w.shape[0] // 2,) * 2
    y = lax.conv_general_dilated(
        x, w, (stride, stride), (side, side), dimension_numbers=IMAGES, feature_group_count=groups
    )
    return y + p[f"{name}/b"] if f"{name}/b" in p else y


def _strided(p: Values, x: jax.Array) -> jax.Array:
    for i in range(3):
        x = jax.nn.relu(_conv(p, i, x, 2))
    return _dense(p, "dense", x.mean((1, 2)))


def _separable(p: Values, x: jax.Array) -> jax.Array:
    for i, stride in enumerate((1, 2, 1)):
        x = jax.nn.relu(_conv(p, 2 * i, x, stride, x.shape[3]))
        x = jax.nn.relu(_conv(p, 2 * i + 1, x))
    return _dense(p, "dense", x.mean((1, 2)))


def _normal(p: Values, name: str, x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) * lax.rsqrt(var + 1e-5) * p[f"{name}/scale"] + p[f"{name}/shift"]


def _residual(p: Values, x: jax.Array) -> jax.Array:
    for block in range(2):
        inner = x
        for i in (2 * block, 2 * block + 1):
            inner = _normal(p, _numbered("batch_norm", i), _conv(p, i, inner), (0, 1, 2))
            inner = jax.nn.relu(inner) if i == 2 * block else inner
        x = jax.nn.relu(x + inner)
    return _dense(p, "dense", x.mean((1, 2)))


def _words(p: Values, x: jax.Array) -> jax.Array:
    h = p["embedding/w"][x].mean(1)
    return _dense(p, "dense_1", jax.nn.relu(_dense(p, "dense", h)))


def _attention(p: Values, x: jax.Array) -> jax.Array:
    batch, length, width = x.shape
    h = _normal(p, "norm", x, (2,))
    q, k, v = (_dense(p, name, h).reshape(batch, length, HEADS, -1) for name in "qkv")
    shares = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k) * (width // HEADS) ** -0.5)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", shares, v).reshape(batch, length, width)
    x = x + _dense(p, "mixed", mixed)
    x = x + _dense(p, "down", jax.nn.relu(_dense(p, "up", _normal(p, "norm2", x, (2,)))))
    return _dense(p, "score", x.mean(1))


def _autoencoder(p: Values, x: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(_stack(3)(p, x) - x))


def _gru(p: Values, x: jax.Array) -> jax.Array:
    w, u = (jnp.concatenate(list(p[f"gru/{name}"]), axis=1) for name in ("w", "u"))
    ahead = jnp.swapaxes(x @ w + p["gru/b"].reshape(-1), 0, 1)

    def cell(h: jax.Array, given: jax.Array) -> tuple[jax.Array, None]:
        (r, z, new), (from_r, from_z, from_new) = jnp.split(given, 3, axis=1), jnp.split(h @ u, 3, axis=1)
        z = jax.nn.sigmoid(z + from_z)
        new = jnp.tanh(new + jax.nn.sigmoid(r + from_r) * (from_new + p["gru/bn"]))
        return (1 - z) * new + z * h, None

    return _dense(p, "dense", lax.scan(cell, jnp.zeros((x.shape[0], u.shape[0]), x.dtype), ahead)[0])


LOGITS: Mapping[str, Callable[[Values, jax.Array], jax.Array]] = {
    **{net: _stack(depth) for net, depth in DEPTHS.items() if net != "inference"},
    "strided": _strided,
    "separable": _separable,
    "residual": _residual,
    "words": _words,
    "attention": _attention,
    "gru": _gru,
}
LOSSES: Mapping[str, Callable[[Values, jax.Array], jax.Array]] = {"inference": _inference, "autoencoder": _autoencoder}
