"""Numba's simulator of CUDA lets two threads of a block that are first at a shared array have one each; here they wait in line."""

import sys
import threading
from typing import Any

import numpy as np
from numba.core import config
from numba.core.types import Type
from numba.np.numpy_support import as_dtype

if config.ENABLE_CUDASIM:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    IN_LINE = threading.Lock()

    def shared_array(self: Any, shape: Any, dtype: Any) -> np.ndarray:
        """The array of this line of the kernel, the same for all threads of a block."""
        caller = sys._getframe(1)
        with IN_LINE:
            line = (caller.f_code.co_filename, caller.f_lineno)
            if line not in self._allocations:
                self._allocations[line] = np.empty(shape, as_dtype(dtype) if isinstance(dtype, Type) else dtype)
            return self._allocations[line]

    FakeCUDAShared.array = shared_array
