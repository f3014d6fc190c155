"""The decorator of compiled functions; the machine code is cached on disk."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

F = TypeVar("F", bound=Callable[..., Any])
U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


def compiled(function: F, **options: Any) -> F:
    """Runs without the interpreter's lock, so that threads may share the work. options: numba's."""
    made: F
    try:
        made = numba.njit(nogil=True, cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written
        made = numba.njit(nogil=True, **options)(function)
    return made
