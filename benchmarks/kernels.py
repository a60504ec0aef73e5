"""The compiled convolutions, locally connected layers and pools on one thread, beside PyTorch's; and what a second thread gives.

The shapes are those of two small networks for images of 32 x 32. Each row is measured in short runs that alternate with PyTorch's,
of which the best counts; so it is little disturbed by what else runs here. PyTorch is asked for both of its layouts, channels
last and first, and the faster one stands in the table. `halves` is how many times as fast as the whole the slower of two pieces
is, each on its own: as much as a second thread can give; `two threads` is what it gave, which takes two idle processors.

Rates are billions of operations in a second (a product counts as two), for pools billions of bytes read and written.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from rainshed.ops import CATALOGUE
from rainshed.ops.evaluate import empty
from rainshed.ops.native import native_calls
from rainshed.ops.source import input as input_node

Array = np.ndarray[Any, Any]
Step = Callable[[], object]
RNG = np.random.default_rng(0)


@dataclass(frozen=True, slots=True)
class Case:
    """A kernel on its operands; `peers` makes PyTorch's ways to do the same, given the module."""

    name: str
    op: str
    operands: tuple[Array, ...]
    attrs: Mapping[str, Any]
    work: float  # operations, or bytes
    peers: Callable[[Any], Sequence[Step]]


def numbers(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def convolution(name: str, x: tuple[int, ...], w: tuple[int, ...], padding: int) -> list[Case]:
    image, weights, dy = numbers(*x), numbers(*w), numbers(*x[:3], w[3])
    work = 2.0 * dy.size * w[0] * w[1] * w[2]
    low = (padding, padding)

    def layouts(torch: Any) -> list[tuple[Any, Any, Any]]:
        last = [torch.tensor(image).permute(0, 3, 1, 2), torch.tensor(weights).permute(3, 2, 0, 1)]
        last = [*last, torch.tensor(dy).permute(0, 3, 1, 2)]
        last[1] = last[1].contiguous(memory_format=torch.channels_last)
        return [tuple(last), tuple(t.contiguous() for t in last)]

    def forward(torch: Any) -> list[Step]:
        return [lambda x=x, w=w: torch.nn.functional.conv2d(x, w, padding=padding) for x, w, _ in layouts(torch)]

    def backward(*mask: bool) -> Callable[[Any], list[Step]]:
        def steps(torch: Any) -> list[Step]:
            rest = (None, [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1, (*mask, False))
            return [
                lambda x=x, w=w, dy=dy: torch.ops.aten.convolution_backward(dy, x, w, *rest)
                for x, w, dy in layouts(torch)
            ]

        return steps

    return [
        Case(f"{name} forward", "conv2d", (image, weights), {"padding": padding}, work, forward),
        Case(f"{name} input gradient", "conv2d_input_grad", (dy, weights), {"image": x[1:3], "low": low}, work,
             backward(True, False)),
        Case(f"{name} weight gradient", "conv2d_weight_grad", (image, dy), {"kernel": w[:2], "low": low}, work,
             backward(False, True)),
    ]  # fmt: skip


def local(x: tuple[int, ...], kernel: int, maps: int) -> list[Case]:
    """PyTorch has no such layer: windows are unfolded, and multiplied as a batch of matrices."""
    many = x[1] - kernel + 1
    image, dy = numbers(*x), numbers(x[0], many, many, maps)
    weights = numbers(many, many, kernel, kernel, x[3], maps)
    work = 2.0 * x[0] * weights.size

    def unfolded(torch: Any) -> Any:
        found = torch.nn.functional.unfold(torch.tensor(image).permute(0, 3, 1, 2).contiguous(), kernel)
        return found.permute(2, 0, 1)

    def operands(torch: Any) -> tuple[Any, Any]:
        columns = torch.tensor(weights).permute(0, 1, 4, 2, 3, 5).reshape(many * many, -1, maps).contiguous()
        return columns, torch.tensor(dy).reshape(x[0], many * many, maps).permute(1, 0, 2).contiguous()

    def forward(torch: Any) -> list[Step]:
        columns, _ = operands(torch)
        return [lambda: torch.bmm(unfolded(torch), columns)]

    def to_input(torch: Any) -> list[Step]:
        columns, given = operands(torch)

        def step() -> None:
            patches = torch.bmm(given, columns.transpose(1, 2)).permute(1, 2, 0)
            torch.nn.functional.fold(patches, x[1:3], kernel)

        return [step]

    def to_weights(torch: Any) -> list[Step]:
        (_, given), seen = operands(torch), unfolded(torch)
        return [lambda: torch.bmm(seen.transpose(1, 2), given)]

    return [
        Case("local forward", "local2d", (image, weights), {}, work, forward),
        Case("local input gradient", "local2d_input_grad", (dy, weights), {"image": x[1:3]}, work, to_input),
        Case(
            "local weight gradient", "local2d_weight_grad", (image, dy), {"kernel": (kernel, kernel)}, work, to_weights
        ),
    ]


def pools(x: tuple[int, ...]) -> list[Case]:
    image, dy = numbers(*x), numbers(x[0], x[1] // 2, x[2] // 2, x[3])
    where = {"size": (2, 2), "stride": (2, 2)}

    def forward(torch: Any) -> list[Step]:
        last = torch.tensor(image).permute(0, 3, 1, 2)
        return [lambda t=t: torch.nn.functional.max_pool2d(t, 2) for t in (last, last.contiguous())]

    def backward(torch: Any) -> list[Step]:
        last, given = torch.tensor(image).permute(0, 3, 1, 2), torch.tensor(dy).permute(0, 3, 1, 2)
        found: list[Step] = []
        for t, d in ((last, given), (last.contiguous(), given.contiguous())):
            _, best = torch.nn.functional.max_pool2d(t, 2, return_indices=True)
            rest = ([2, 2], [2, 2], [0, 0], [1, 1], False, best)
            found.append(lambda t=t, d=d, rest=rest: torch.ops.aten.max_pool2d_with_indices_backward(d, t, *rest))
        return found

    return [
        Case("max pool forward", "max_pool2d", (image,), where, image.nbytes * 1.25, forward),
        Case("max pool gradient", "max_pool2d_grad", (image, dy), where, image.nbytes * 2.25, backward),
    ]


def cases(batch: int) -> list[Case]:
    """Batches are small, so that a run is over before the system gives the processor to another."""
    return [
        *convolution("conv 5x5, 3 to 32", (batch, 32, 32, 3), (5, 5, 3, 32), 2),
        *convolution("conv 5x5, 32 to 64", (batch, 16, 16, 32), (5, 5, 32, 64), 2),
        *convolution("conv 3x3, 64 to 64", (batch, 8, 8, 64), (3, 3, 64, 64), 1),
        *local((batch, 32, 32, 3), 10, 8),
        *pools((batch, 32, 32, 32)),
    ]


def best_s(steps: Sequence[Step], seconds: float) -> list[float]:
    """The shortest run of each, in turn, over so many seconds."""
    best = [float("inf")] * len(steps)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, step in enumerate(steps):
            began = time.perf_counter()
            step()
            best[i] = min(best[i], time.perf_counter() - began)
    return best


def measured(case: Case, seconds: float, torch: Any, pool: ThreadPoolExecutor) -> dict[str, Any]:
    op = CATALOGUE[case.op]
    leaves = (input_node(f"x{i}", a.shape, a.dtype) for i, a in enumerate(case.operands))
    node = op(*leaves, **case.attrs)
    operands = (*case.operands, empty(node.type))
    (whole,), halves = native_calls(op, operands, node.attrs), native_calls(op, operands, node.attrs, 2)

    def both() -> None:
        other = pool.submit(halves[-1])
        halves[0]()
        other.result()

    peers = [] if torch is None else list(case.peers(torch))
    ours, two, first, second, *theirs = best_s([whole, both, halves[0], halves[-1], *peers], seconds * (4 + len(peers)))
    row = {
        "kernel": case.name,
        "unit": "GB/s" if "pool" in case.name else "GFLOP/s",
        "ours_ms": ours * 1e3,
        "ours_rate": case.work / ours / 1e9,
        "halves": ours / max(first, second),
        "two_threads": ours / two,
        "torch_ms": min(theirs) * 1e3 if theirs else None,
        "torch_rate": case.work / min(theirs) / 1e9 if theirs else None,
        "ratio": ours / min(theirs) if theirs else None,
    }
    return row


def limits(seconds: float) -> dict[str, float]:
    """What this computer can do on one thread: a large product, and a copy that goes past the caches."""
    a, b, out = numbers(768, 768), numbers(768, 768), numbers(768, 768)
    source, target = np.ones(1 << 24, np.float32), np.empty(1 << 24, np.float32)
    product, copy = best_s([lambda: np.matmul(a, b, out=out), lambda: np.copyto(target, source)], 2 * seconds)
    return {"product_gflops_per_s": 2 * 768**3 / product / 1e9, "copy_gbytes_per_s": 2 * source.nbytes / copy / 1e9}


def peer() -> Any:
    try:
        torch: Any = import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    return torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one JSON object: rows, limits")
    parser.add_argument("--seconds", type=float, default=1.0, help="measuring time per kernel and engine")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--no-peers", action="store_true", help="without PyTorch")
    args = parser.parse_args()
    torch = None if args.no_peers else peer()
    with threadpool_limits(1), ThreadPoolExecutor(1) as pool:
        rows = [measured(case, args.seconds, torch, pool) for case in cases(args.batch)]
        found = {"rows": rows, "limits": limits(args.seconds), "torch": getattr(torch, "__version__", None)}
    if args.json:
        print(json.dumps(found))
        return
    if torch is None:
        print("PyTorch was not asked, or is not installed: pip install 'rainshed[bench]'")
    print(
        f"{'kernel':42}{'ours ms':>9}{'rate':>8}{'halves':>8}{'2 threads':>11}{'torch ms':>10}{'rate':>8}{'ratio':>7}"
    )
    for row in rows:
        theirs = f"{row['torch_ms']:10.3f}{row['torch_rate']:8.1f}{row['ratio']:7.2f}" if torch is not None else ""
        name = f"{row['kernel']}, {row['unit']}"
        print(
            f"{name:42}{row['ours_ms']:9.3f}{row['ours_rate']:8.1f}{row['halves']:8.2f}{row['two_threads']:11.2f}{theirs}"
        )
    print(", ".join(f"{name} {value:.1f}" for name, value in found["limits"].items()))


if __name__ == "__main__":
    main()
