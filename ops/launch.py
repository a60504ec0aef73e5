"""Compiling and launching CUDA kernels by Numba, which is imported when the first launcher is made, not before.

With NUMBA_ENABLE_CUDASIM=1 in the environment, Numba runs the same kernels in its simulator, without a GPU: each CUDA
thread is a Python thread there, so blocks and grids are kept small.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np

from rainshed.ops.cuda import THREADS, TILE, Grid, Kernel, Launch, Launches
from rainshed.ops.errors import UnitError

Array = np.ndarray[Any, Any]
Call = Callable[[], object]
HINT = "pip install 'rainshed[cuda]' (numba-cuda), an NVIDIA GPU and its driver; `nvidia-smi` should list the GPU"


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of blocks and grids: threads of a block (a power of 2), edge of a tile, blocks along one axis of a grid."""

    threads: int = THREADS
    tile: int = TILE
    blocks: int = 65535


SIMULATED = Limits(threads=4, tile=2, blocks=3)

_NUMPY_NAMES = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2",
    "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh",
}  # fmt: skip
_MATH = (
    *("sqrt", "exp", "expm1", "log", "log1p", "log2", "log10", "sin", "cos", "tan", "sinh", "cosh", "tanh", "hypot"),
    *("copysign", "floor", "ceil", "trunc", "isfinite", "isinf", *_NUMPY_NAMES),
)
# `math` for kernels that run as plain Python: inf and NaN come out as on a GPU, where Python's own functions raise.
PLAIN_MATH = SimpleNamespace(
    **{name: getattr(np, _NUMPY_NAMES.get(name, name)) for name in _MATH}, erf=math.erf, inf=math.inf, nan=math.nan
)


def bound(function: Callable[..., Any], **names: Any) -> FunctionType:
    """The same function, but seeing these names in place of its module's."""
    if not isinstance(function, FunctionType):
        raise UnitError(f"{function!r} is not a plain Python function")
    namespace = {**function.__globals__, **names}
    return FunctionType(function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__)


def plain(function: Callable[..., Any], **names: Any) -> FunctionType:
    """The function as plain Python with a GPU's arithmetic: no exception and no warning for a division by zero."""
    inner, errstate = bound(function, math=PLAIN_MATH, **names), np.errstate

    def quiet(*args: Any) -> None:
        with errstate(all="ignore"):
            inner(*args)

    # The simulator puts its own `cuda` into the globals of the function it gets: they must be those of the inner one.
    return FunctionType(quiet.__code__, inner.__globals__, inner.__name__, None, quiet.__closure__)


class Launcher:
    """One CUDA device: its memory, its stream, and the kernels compiled for it. Safe from several threads.

    Everything runs in the order of the calls: kernels and uploads are queued, a download waits for what is before it.

    Raises  UnitError, at construction, where there is no such device, driver or library
    """

    def __init__(self, index: int = 0, limits: Limits | None = None) -> None:
        self._lock = threading.Lock()
        self._cuda = _numba_cuda()
        self.simulated = bool(import_module("numba.core.config").ENABLE_CUDASIM)
        self._device = self._found(index)
        self._limits = limits or (SIMULATED if self.simulated else Limits())
        self._compiled: dict[Kernel, Any] = {}
        with self._device:
            self._stream = self._cuda.stream()

    def _found(self, index: int) -> Any:
        try:
            devices = list(self._cuda.gpus)
        except Exception as error:  # the driver's own errors, whose class depends on what is missing
            raise UnitError(f"there is no CUDA device: {error}", hint=HINT) from None
        if not 0 <= index < len(devices):
            raise UnitError(f"there is no CUDA device {index}: this machine has {len(devices)}", hint=HINT)
        return devices[index]

    # -- memory ----

    def zeros(self, nbytes: int) -> Any:
        """So many zero bytes on the device."""
        with self._lock, self._device:
            return self._cuda.to_device(np.zeros(max(1, nbytes), np.uint8))

    def view(self, raw: Any, offset: int, size: int, dtype: Any) -> Any:
        """`size` elements of a device array of bytes, as a flat array; one that is never read, where there are none."""
        nbytes = size * np.dtype(dtype).itemsize
        with self._lock, self._device:
            if not size:
                return self._cuda.to_device(np.zeros(1, dtype))
            return raw[offset : offset + nbytes].view(np.dtype(dtype))

    def upload(self, host: Array, device: Any) -> None:
        if host.size:
            with self._lock, self._device:  # the bytes have left `host` when this returns: it is pageable memory
                device.copy_to_device(host.reshape(-1), stream=self._stream)

    def download(self, device: Any, host: Array) -> None:
        """Fill a contiguous host array, and wait until that is done."""
        if host.size:
            with self._lock, self._device:
                device.copy_to_host(host.reshape(-1), stream=self._stream)
                self._stream.synchronize()

    def copy(self, source: Any, target: Any) -> None:
        """From device to device."""
        with self._lock, self._device:
            target.copy_to_device(source, stream=self._stream)  # both have at least one element

    # -- kernels ----

    def call(self, launches: Launches, inputs: Sequence[Any], out: Any) -> Call:
        """A function without arguments that queues these launches on flat device arrays."""
        rows = tuple((self._kernel(x), *self._dims(x.grid), self._args(x, inputs, out)) for x in launches)

        def launch() -> None:
            with self._lock, self._device:
                for kernel, grid, block, args in rows:
                    kernel[grid, block, self._stream](*args)

        return launch

    def _args(self, launch: Launch, inputs: Sequence[Any], out: Any) -> tuple[Any, ...]:
        return (*(inputs[i] for i in launch.reads), out, *launch.numbers)

    def _kernel(self, launch: Launch) -> Any:
        with self._lock:
            found = self._compiled.get(launch.kernel)
            if found is None:
                names = {"cuda": self._cuda, "THREADS": self._limits.threads, "TILE": self._limits.tile}
                form = plain if self.simulated else bound
                found = self._compiled[launch.kernel] = self._cuda.jit(form(launch.kernel.function, **names))
            return found

    def _dims(self, grid: Grid) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Blocks of the grid, and threads of a block."""
        limits = self._limits
        if grid.threads or grid.blocks:
            wanted = grid.blocks or -(-grid.threads // limits.threads)
            return (min(wanted, limits.blocks),), (limits.threads,)
        columns, rows, matrices = grid.tiles
        across, down = -(-columns // limits.tile), -(-rows // limits.tile)
        blocks = tuple(min(n, limits.blocks) for n in (across, down, matrices))
        return blocks, (limits.tile, limits.tile)


def _numba_cuda() -> Any:
    try:
        config: Any = import_module("numba.core.config")
        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # small kernels are a fact of life, not news to a user
        cuda = import_module("numba.cuda")
        available = cuda.is_available()
    except ImportError as error:
        raise UnitError(f"Numba's CUDA support cannot be imported: {error}", hint=HINT) from None
    if not available:
        raise UnitError("there is no CUDA device that can be used on this machine", reason=_reason(cuda), hint=HINT)
    return cuda


def _reason(cuda: Any) -> str:
    """What the driver says, if it can be asked."""
    try:
        error = cuda.cuda_error()
    except Exception as raised:  # the driver's own errors, whose class depends on what is missing
        error = raised
    return " ".join(str(error).split())[:300] if error is not None else "Numba finds no toolkit (NVVM) for it"


@lru_cache(maxsize=16)
def launcher(index: int) -> Launcher:
    """The one launcher of a device in this process: all that share a device share its order. Raises UnitError."""
    return Launcher(index)
