"""Large zeroed memory of the host: nothing to wait for when it is made, no page faults when it is used.

On Linux the kernel gives zeroed pages when they are touched first. A cache of gigabytes is therefore there at
once, and a thread of the lowest priority has the kernel fill it in whenever nothing is being computed: beside
a step it would hold up the threads that compute. Elsewhere memory is written when it is made.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch

_HUGE_PAGE = 2 << 20
_REST = 0.05  # seconds for which nothing must have been computed

# From sys/mman.h. Python's mmap names the first alone, and holds the interpreter while the kernel works.
_MADV_HUGEPAGE, _MADV_POPULATE_WRITE = 14, 23


def zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A contiguous tensor of zeros on the host, in huge pages if the kernel grants them.

    Raises:
        MemoryError: the kernel refuses.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if sys.platform != "linux" or nbytes < _HUGE_PAGE:
        return torch.zeros(tuple(shape), dtype=dtype)
    try:
        mapping = mmap.mmap(-1, nbytes + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no {nbytes} bytes: {error}") from error
    whole = torch.frombuffer(mapping, dtype=torch.uint8)  # which keeps the mapping
    tensor = whole[-whole.data_ptr() % _HUGE_PAGE :][:nbytes]
    _advise(tensor.data_ptr(), nbytes // _HUGE_PAGE * _HUGE_PAGE, _MADV_HUGEPAGE)
    return tensor.view(dtype).view(tuple(shape))


class Activity:
    """When somebody computes. Written by one thread, read by others."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since = -math.inf  # when it stopped; infinite in the future while it goes on

    def begin(self) -> None:
        """Computing begins."""
        self._since = math.inf

    def end(self) -> None:
        """It is over."""
        self._since = time.monotonic()

    @property
    def rested(self) -> bool:
        """Nothing has been computed for a while."""
        return time.monotonic() - self._since > _REST


class Filling:
    """A thread that has the kernel fill in tensors made by `zeros`, for as long as somebody wants them."""

    def __init__(self, tensors: Sequence[torch.Tensor], activity: Activity) -> None:
        """Start it.

        Args:
            tensors: all pages of those that are large.
            activity: what it is not to disturb.
        """
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        large = [one for one in tensors if one.device.type == "cpu" and one.nbytes >= _HUGE_PAGE]
        if sys.platform == "linux" and large:
            arguments = (large, activity, self._ended)
            self._thread = threading.Thread(target=_fill, args=arguments, name="quire-pages", daemon=True)
            self._thread.start()
        else:
            self._ended.set()

    def end(self) -> None:
        """No more of it; returns, within milliseconds, when the thread has let go of the tensors.

        To be called before the interpreter goes: a thread that runs then can bring the process down.
        """
        self._ended.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def wait(self, timeout: float | None = None) -> bool:
        """Until all is filled in, or at most `timeout` seconds; whether it is, or was ended."""
        return self._ended.wait(timeout)


def _fill(tensors: list[torch.Tensor], activity: Activity, ended: threading.Event) -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)  # of this thread alone
    for tensor in tensors:
        for offset in range(0, tensor.nbytes, _HUGE_PAGE):
            while not activity.rested and not ended.wait(_REST):
                pass
            size = min(_HUGE_PAGE, tensor.nbytes - offset)
            # Refused by kernels before 5.14: then steps touch the pages.
            if ended.is_set() or not _advise(tensor.data_ptr() + offset, size, _MADV_POPULATE_WRITE):
                ended.set()
                return
    ended.set()


def _advise(address: int, size: int, advice: int) -> bool:
    """madvise(2), without holding the interpreter; whether the kernel took it."""
    return bool(_LIBC.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice) == 0)


_LIBC: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
