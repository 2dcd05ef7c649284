"""What the serving process asks of Python's collector and of its C library."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Final

# glibc's malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
# Pillow keeps pixels in blocks of 16 MiB.
_LARGE_BLOCK: Final = 8 * 2**20
_KEPT_IN_A_HEAP: Final = 32 * 2**20


def give_back_large_blocks() -> None:
    """Have glibc return blocks as large as a picture's pixels to the system as soon as they are freed, and keep others.

    By default glibc keeps large blocks once some were freed, in a heap for each thread: after a few of the largest
    pictures, one to two GB that are never given back. A fixed threshold alone would have it return 128 KiB at the end
    of a heap, too: each batch would then fault its arrays' pages in again, an eighth of the throughput of explain.
    """
    if mallopt := _function("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_IN_A_HEAP)


def settle() -> None:
    """What is loaded by now stays, and what loading no longer needs goes back to the system.

    Unfrozen, the collector would search all of torch now and then, for 0.1 s each time; and glibc would keep 70 MB.
    """
    gc.collect()
    gc.freeze()
    if malloc_trim := _function("malloc_trim"):
        malloc_trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """A function of glibc; None under another C library."""
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function
