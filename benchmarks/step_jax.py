"""The networks of `step.py` in JAX, each step one jitted function, from weights under the names of our variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import step_shapes_jax
from benchmarks.step_all import NETS

Values = dict[str, jax.Array]
Arrays = Mapping[str, np.ndarray]
IMAGES = ("NHWC", "HWIO", "NHWC")


def make_step(net: str, arrays: Arrays, rate: float) -> Callable[[], float]:
    """A function that takes one step of SGD and gives the loss before it."""
    x, labels = jnp.asarray(arrays["x"]), jnp.asarray(arrays.get("labels", arrays["x"]))
    state = {"params": {name: jnp.asarray(a) for name, a in arrays.items() if name not in ("x", "labels")}}

    def loss_of(params: Values, x: jax.Array, labels: jax.Array) -> jax.Array:
        if net in step_shapes_jax.LOSSES:
            return step_shapes_jax.LOSSES[net](params, x)
        rows = jax.nn.log_softmax(LOGITS[net](params, x))
        return -jnp.mean(jnp.take_along_axis(rows, labels[..., None], axis=-1))

    def update(params: Values, x: jax.Array, labels: jax.Array) -> tuple[jax.Array, Values]:
        loss, slopes = jax.value_and_grad(loss_of)(params, x, labels)
        return loss, {name: p - rate * slopes[name] for name, p in params.items()}

    run = jax.jit(update, donate_argnums=0)

    def step() -> float:
        loss, state["params"] = run(state["params"], x, labels)
        jax.block_until_ready(state["params"])
        return float(loss)

    evaluate = jax.jit(loss_of)
    return step if NETS[net].trains else lambda: float(evaluate(state["params"], x, labels))


def _dense(p: Values, name: str, x: jax.Array) -> jax.Array:
    return x @ p[f"{name}/w"] + p[f"{name}/b"]


def _speech(p: Values, x: jax.Array) -> jax.Array:
    for name in ("dense", "dense_1", "dense_2", "dense_3"):
        x = jax.nn.sigmoid(_dense(p, name, x))
    return _dense(p, "dense_4", x)


def _mlp(p: Values, x: jax.Array) -> jax.Array:
    for name in ("dense", "dense_1"):
        x = jax.nn.relu(_dense(p, name, x))
    return _dense(p, "dense_2", x)


def _pool(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _convnet(p: Values, x: jax.Array) -> jax.Array:
    for name in ("conv2d", "conv2d_1", "conv2d_2"):
        y = lax.conv_general_dilated(x, p[f"{name}/w"], (1, 1), "SAME", dimension_numbers=IMAGES)
        x = _pool(jax.nn.relu(y + p[f"{name}/b"]))
    return _dense(p, "dense_1", jax.nn.relu(_dense(p, "dense", x.reshape(x.shape[0], -1))))


def _lstm(p: Values, x: jax.Array) -> jax.Array:
    for i in (0, 1):
        w, u = (jnp.concatenate(list(p[f"lstm/{i}/{name}"]), axis=1) for name in ("w", "u"))
        ahead = jnp.swapaxes(x @ w + p[f"lstm/{i}/b"].reshape(-1), 0, 1)

        def cell(state: tuple[jax.Array, jax.Array], z: jax.Array, u: jax.Array = u) -> tuple[tuple, jax.Array]:
            h, c = state
            gate_i, f, g, o = jnp.split(z + h @ u, 4, axis=1)
            c = jax.nn.sigmoid(f + 1.0) * c + jax.nn.sigmoid(gate_i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[0], u.shape[0]), x.dtype)
        x = jnp.swapaxes(lax.scan(cell, (zero, zero), ahead)[1], 0, 1)
    return _dense(p, "dense", x)


def _local(p: Values, x: jax.Array) -> jax.Array:
    w = p["local2d/w"]
    rows, columns, high, wide, _, filters = w.shape
    patches = lax.conv_general_dilated_patches(x, (high, wide), (1, 1), "VALID", dimension_numbers=IMAGES)
    flat = w.transpose(0, 1, 4, 2, 3, 5).reshape(rows, columns, -1, filters)  # patches are channels first
    h = _pool(jnp.tanh(jnp.einsum("brck,rckf->brcf", patches, flat) + p["local2d/b"]))
    return _dense(p, "dense", h.reshape(h.shape[0], -1))


LOGITS: Mapping[str, Callable[[Values, jax.Array], jax.Array]] = {
    "speech": _speech,
    "mlp": _mlp,
    "convnet": _convnet,
    "lstm": _lstm,
    "local": _local,
    **step_shapes_jax.LOGITS,
}
