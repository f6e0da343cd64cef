"""Freed memory, given back to the system between the phases of a step.

The C library keeps what was freed for the next request of any size. The phases of a step ask for tensors of different
shapes, so what one leaves behind fits the next badly, and the process grows by the sum of them instead of the largest.
"""

import ctypes
import os
from functools import cache


@cache
def _trim():
    """`malloc_trim` where the C library has it (glibc), else something that does nothing."""
    return getattr(ctypes.CDLL(None), "malloc_trim", lambda _pad: 0)


def give_back() -> None:
    """Return freed memory to the system. Costs about what it takes to ask for it again: call it between phases."""
    _trim()(0)


def keep_few_kernels() -> None:
    """Let the libraries of matrix products keep the code of a few shapes, and make the rest again when it is asked for.

    Of use before the first product in bf16; a setting of the user's own stands. oneDNN keeps 1,024 kernels, and the
    layer between it and torch the states of 1,024 products, half a megabyte each. Rows are of many lengths, so a
    process grew by these for hours; made again, the code of a shape costs milliseconds."""
    os.environ.setdefault("LRU_CACHE_CAPACITY", "32")  # of torch's own layer: the products of one pass over a model
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
