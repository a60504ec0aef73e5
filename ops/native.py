"""Compiled kernels on the CPU: those that an op brings, and fused element-wise ops as loops by Numba, from the formulas that
also make the kernels for CUDA.

A loop is compiled once per body and pattern of shapes. Its source is written to the user's cache folder, where Numba keeps the
machine code beside it, so that the next process does not compile it again.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path

import numpy as np

from rainshed.ops.fused import fused, lines_of
from rainshed.ops.ir import Attrs
from rainshed.ops.op import Call, Op
from rainshed.ops.scalar import Loop, loop_of, made
from rainshed.ops.types import TensorType, dtype_of

HEADER = "for i in range(n):"


def can_compile() -> bool:
    """Whether Numba may compile in this process."""
    return os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def native_calls(op: Op, operands: tuple[np.ndarray, ...], attrs: Attrs, pieces: int = 1) -> list[Call]:
    """At most so many calls without arguments, which fill the last operand together and may run at once.

    One call of the NumPy kernel where the op has no compiled one for these types, or an array is not contiguous. The result has
    the same bits for any number of pieces.
    """
    *inputs, out = operands
    if all(x.flags.c_contiguous for x in operands):
        if op is fused:
            return [native_call(attrs["body"], *operands)]
        types = tuple(TensorType(dtype_of(x.dtype), x.shape) for x in operands)
        bind = op.native(types[:-1], types[-1], attrs) if op.native is not None else None
        if bind is not None and all(x.flags.writeable for x in operands):
            return bind(operands, pieces)
    return [partial(op.cpu, *inputs, out, **attrs)]


def native_call(body: str, *operands: np.ndarray) -> Callable[[], object]:
    """A function without arguments that fills the last operand from the others, all of them contiguous."""
    *inputs, out = operands
    types = tuple(TensorType(dtype_of(x.dtype), x.shape) for x in operands)
    loop, numbers = loop_of(types[:-1], types[-1], lines_of(body))
    if not out.size:
        return lambda: None
    return partial(compiled(loop), *(x.reshape(-1) for x in inputs), out.reshape(-1), *numbers)


@lru_cache(maxsize=4096)
def compiled(loop: Loop) -> Callable[..., None]:
    """The loop as machine code that releases the GIL; float errors give inf and NaN, as in NumPy."""
    numba = import_module("numba")
    source = loop.source(HEADER)
    path = source_file(source)
    found: Callable[..., None]
    if path is None:
        found = numba.njit(nogil=True, error_model="numpy")(made(source))
    else:
        found = numba.njit(nogil=True, error_model="numpy", cache=True)(made(source, str(path)))
    return found


def plain_loop(loop: Loop) -> Callable[..., None]:
    """The same loop as plain Python."""
    return made(loop.source(HEADER))


def is_cached(source: str) -> bool:
    """Whether the cache on disk holds machine code of this source."""
    path = source_file(source)
    return path is not None and any((path.parent / "__pycache__").glob(f"{path.stem}.*.nbc"))


def source_file(source: str) -> Path | None:
    """The file of the cache that holds this source; None where there is no place to write it."""
    name = hashlib.blake2b(source.encode(), digest_size=12).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    path = Path(base) / "rainshed" / "kernels" / f"k{name}.py"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
                file.write(source)
            Path(file.name).replace(path)
    except (OSError, RuntimeError):
        return None
    return path
