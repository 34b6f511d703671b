"""Pinning, on the OpenMP that PyTorch has loaded. In a thread of its own: a binding cannot be seen to end."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from quire.runtime.pinning import pin_threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="affinity masks are Linux's")


def in_a_thread(cpus: list[int]) -> tuple[str | None, set[int]]:
    """Pin a new thread's team; returns the answer, and the thread's own mask after it."""
    found: list[tuple[str | None, set[int]]] = []

    def work() -> None:
        torch.ones(1)  # PyTorch, and its OpenMP with it, is in this process
        found.append((pin_threads(cpus), os.sched_getaffinity(0)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


@linux
def test_the_calling_thread_is_bound_to_the_first_processor() -> None:
    before = os.sched_getaffinity(0)
    cpu = max(before)
    answer, mask = in_a_thread([cpu])
    assert (answer, mask) == (None, {cpu})
    assert os.sched_getaffinity(0) == before  # nobody else is


@linux
def test_each_thread_of_the_team_gets_its_processor() -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    tasks = {int(one) for one in os.listdir("/proc/self/task")}
    masks: list[set[int]] = []

    def work() -> None:
        assert pin_threads(cpus) is None
        new = {int(one) for one in os.listdir("/proc/self/task")} - tasks
        masks.extend(os.sched_getaffinity(one) for one in new)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert sorted(map(sorted, masks)) == [[cpu] for cpu in cpus]


@linux
def test_a_processor_that_is_not_there_is_told() -> None:
    answer, _ = in_a_thread([4095])
    assert answer is not None
    assert answer.startswith("processor 4095: ")


@pytest.mark.parametrize("content", [None, "7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/libc.so.6\n"])
def test_without_gnu_openmp_the_reason_is_told(tmp_path: Path, content: str | None) -> None:
    maps = tmp_path / "maps"
    if content is not None:
        maps.write_text(content)
    assert pin_threads([0], maps) == "PyTorch does not use GNU OpenMP here"
