"""What is asked of the C library about a process's memory.

glibc's allocator is told to keep what a step frees, since the next step wants it again. By default it gives
blocks of some megabytes back to the kernel as soon as they are free, and each step's temporaries are then
paid for in page faults, which can cost more than computing them. While weights are loaded it is told the
opposite: what is repacked would else be there twice. Others than glibc are left alone.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# From malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3

# Above this, blocks (the KV cache) still come from the kernel and go back to it. The most glibc takes.
_LARGEST_KEPT = 32 * 2**20
_KEPT = 2**30
# Blocks from here on go back while weights are loaded: a small model has projections of some hundred KiB.
# Each is a mapping, of which a process has 65536.
_LARGE_WEIGHT = 2**17
_GROW_BY = 64 * 2**20


def keep_freed_memory() -> None:
    """Set glibc's thresholds for this process, unless the user has set them by environment."""
    libc = _tunable()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
        libc.mallopt(_M_TOP_PAD, _GROW_BY)


@contextmanager
def large_blocks_returned() -> Iterator[None]:
    """Within this, a large block that is freed goes back to the kernel at once; afterwards as before.

    The heap has no other way: it would keep what lies between blocks that are still used.
    """
    libc = _tunable()
    if libc is None:
        yield
        return
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_WEIGHT)
    libc.mallopt(_M_TOP_PAD, 0)
    libc.malloc_trim(0)  # what the heap has free comes before the threshold
    try:
        yield
    finally:
        keep_freed_memory()


def return_freed_memory() -> None:
    """Give everything that is free back to the kernel."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _tunable() -> Any | None:
    """The C library, if it is glibc and the user has set nothing."""
    return None if any(name.startswith("MALLOC_") for name in os.environ) else _glibc()


def _glibc() -> Any | None:
    """The C library, if it is glibc: musl has neither function."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None
