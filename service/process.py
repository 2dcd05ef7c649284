"""Tunes the garbage collector and glibc's allocator for the serving process."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Final

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
# Bytes. Below the 16 MiB blocks in which Pillow keeps pixels.
_LARGE_BLOCK: Final = 8 * 2**20
_KEPT_IN_A_HEAP: Final = 32 * 2**20


def give_back_large_blocks() -> None:
    """Make glibc return large blocks, such as a picture's pixels, to the system as soon as they are freed.

    By default, glibc raises its threshold after large blocks were freed, and keeps such blocks in a heap for each
    thread. After a few of the largest pictures, that is 1 to 2 GB, which it never returns.

    A fixed threshold alone would also make glibc return the end of a heap whenever 128 KiB are free. Each batch would
    then page-fault its arrays again, which costs an eighth of the throughput of explain. So the trim threshold is
    raised as well.
    """
    if mallopt := _function("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_IN_A_HEAP)


def settle() -> None:
    """Freeze the objects that exist after loading, and return the memory that only loading needed.

    Otherwise, the garbage collector would sometimes scan all loaded modules, for 0.1 s each time with torch, and glibc
    would keep 70 MB.
    """
    gc.collect()
    gc.freeze()
    if malloc_trim := _function("malloc_trim"):
        malloc_trim(0)


def _function(name: str) -> Callable[..., int] | None:
    """The function of the C library, or None if it has none of this name."""
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function
