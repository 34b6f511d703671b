"""Binds OpenMP's threads to processors, one each.

Each thread that starts parallel work has a team of its own, so the thread that runs the steps has to call
this. Works with GNU's OpenMP, which PyTorch's Linux wheels bring; elsewhere it says why it does not.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path


def pin_threads(cpus: Sequence[int], maps: Path = Path("/proc/self/maps")) -> str | None:
    """Bind the calling thread's team of `len(cpus)` threads, itself among them.

    Args:
        cpus: a processor for each thread.
        maps: the process's memory map, where the OpenMP library's name stands.

    Returns:
        None, or why the threads are not bound.
    """
    library = _openmp(maps)
    if library is None:
        return "PyTorch does not use GNU OpenMP here"
    failures: list[str] = []

    def bind(_: object) -> None:
        cpu = cpus[openmp.omp_get_thread_num() % len(cpus)]
        try:
            os.sched_setaffinity(0, {cpu})
        except OSError as error:
            failures.append(f"processor {cpu}: {error.strerror}")

    openmp = ctypes.CDLL(library)
    task = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(bind)
    # What a compiler makes of `#pragma omp parallel num_threads(n)`: libgomp.h, GOMP_parallel.
    openmp.GOMP_parallel(task, None, ctypes.c_uint(len(cpus)), ctypes.c_uint(0))
    return "; ".join(failures) or None


def _openmp(maps: Path) -> str | None:
    """Path of the libgomp that is loaded."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        path = line.partition("/")[2]
        if Path(path).name.startswith("libgomp"):
            return f"/{path}"
    return None
