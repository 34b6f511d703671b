from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from quire.runtime.heap import prefer_huge_pages


def flags(address: int) -> list[str]:
    """The kernel's flags of the mapping that holds an address (proc_pid_smaps(5))."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    return []


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are asked for on Linux")
def test_a_large_tensor_is_marked_for_huge_pages() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    tensor = torch.empty(64 << 20, dtype=torch.uint8)
    middle = tensor.data_ptr() + (32 << 20)
    assert "hg" not in flags(middle)
    prefer_huge_pages(tensor)
    assert "hg" in flags(middle)


@pytest.mark.parametrize("size", [0, 1, 4096, (2 << 20) - 1])
def test_a_small_tensor_is_left_alone(size: int) -> None:
    tensor = torch.ones(size, dtype=torch.uint8)
    prefer_huge_pages(tensor)
    assert bool((tensor == 1).all())
