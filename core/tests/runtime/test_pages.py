from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from quire.runtime.pages import Activity, Filling, zeros

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is written when it is made")
LARGE = (64, 1 << 20)


def mapping(address: int) -> dict[str, str]:
    """What the kernel says of the mapping that holds an address (proc_pid_smaps(5))."""
    inside = False
    found: dict[str, str] = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside:
            name, _, value = line.partition(":")
            found[name] = value.strip()
    return found


def resident(tensor: torch.Tensor) -> int:
    """KiB of the mapping that lies in memory."""
    return int(mapping(tensor.data_ptr() + tensor.nbytes // 2)["Rss"].split()[0])


def filling_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "quire-pages"]


@pytest.mark.parametrize("shape", [(0,), (3, 5), (7, 300_001), (2, 3, 1 << 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_zeros_of_any_size(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = zeros(shape, dtype)
    assert tensor.shape == shape
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    assert tensor.data_ptr() % 64 == 0
    assert not tensor.any()
    tensor.fill_(1)
    assert bool((tensor == 1).all())


@on_linux
def test_large_ones_are_in_huge_pages_and_not_there_until_touched() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    tensor = zeros(LARGE, torch.uint8)
    assert "hg" in mapping(tensor.data_ptr() + tensor.nbytes // 2)["VmFlags"].split()
    assert resident(tensor) < 1024
    tensor[32] = 1
    assert 1024 <= resident(tensor) < tensor.nbytes // 1024


@on_linux
def test_filling_changes_nothing_but_what_lies_in_memory() -> None:
    tensor = zeros(LARGE, torch.uint8)
    tensor[5] = 9
    filling = Filling([tensor], Activity())
    assert filling.wait(60)
    if resident(tensor) < 1024 + 2048:
        pytest.skip("this kernel does not fill in on request")
    assert resident(tensor) >= tensor.nbytes // 1024
    assert bool((tensor[5] == 9).all())
    assert not tensor[6:].any()


@on_linux
def test_filling_rests_while_somebody_computes() -> None:
    tensor, activity = zeros(LARGE, torch.uint8), Activity()
    activity.begin()
    filling = Filling([tensor], activity)
    assert not filling.wait(0.3)
    assert resident(tensor) < 1024
    activity.end()
    assert filling.wait(60)


def test_filling_nothing_large_starts_no_thread() -> None:
    before = filling_threads()
    assert Filling([torch.zeros(5)], Activity()).wait(0)
    assert filling_threads() == before


@on_linux
def test_filling_ends_when_told_and_lets_go() -> None:
    tensor = zeros((1 << 15, 1 << 16), torch.uint8)  # 2 GiB: it would take a while
    address = tensor.data_ptr() + tensor.nbytes // 2
    filling = Filling([tensor], Activity())
    filling.end()
    assert filling_threads() == []
    del tensor
    gc.collect()
    assert "Rss" not in mapping(address)


@on_linux
def test_a_process_may_end_while_its_cache_is_filled_in() -> None:
    script = """
from quire import LLM
llm = LLM("tiny", show_progress=False, kv_cache_memory_bytes="3GiB")
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
