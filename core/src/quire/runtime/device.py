"""The little of the hardware that the runtime touches, behind one interface.

`cpu` and `cuda` are here; tests use a fake. What only kernels need stays in kernels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
import torch

from quire.errors import ConfigError
from quire.runtime.heap import keep_freed_memory, return_freed_memory


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a device's memory.

    Attributes:
        total: what the process may use at most (a container's limit counts).
        free: what is not in use by anybody.
    """

    total: int
    free: int


class Device(Protocol):
    """What the runtime asks of the hardware."""

    type: str
    name: str
    collective_backend: str

    def memory(self) -> Memory:
        """Memory now."""

    def synchronize(self) -> None:
        """Wait until all work handed to the device is done."""

    def empty_cache(self) -> None:
        """Give memory that the allocator keeps back to the device."""


class CpuDevice:
    """The host's processors and memory."""

    type = "cpu"
    name = "cpu"
    collective_backend = "gloo"

    def __init__(self) -> None:
        keep_freed_memory()

    def memory(self) -> Memory:
        """Physical memory, or the container's limit where that is lower."""
        host = psutil.virtual_memory()
        limit = _cgroup_limit()
        if limit is None or limit >= host.total:
            return Memory(total=host.total, free=host.available)
        used = psutil.Process(os.getpid()).memory_info().rss
        return Memory(total=limit, free=min(host.available, max(limit - used, 0)))

    def synchronize(self) -> None:
        """Host operations are synchronous."""

    def empty_cache(self) -> None:
        """Give freed memory back, which `__init__` asked the allocator to keep."""
        return_freed_memory()


class CudaDevice:
    """One NVIDIA GPU."""

    type = "cuda"
    collective_backend = "nccl"

    def __init__(self, index: int) -> None:
        self.name = f"cuda:{index}"

    def memory(self) -> Memory:
        """Device memory as the driver reports it."""
        free, total = torch.cuda.mem_get_info(self.name)
        return Memory(total=total, free=free)

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        torch.cuda.synchronize(self.name)

    def empty_cache(self) -> None:
        """Release cached blocks of PyTorch's allocator."""
        torch.cuda.empty_cache()


def resolve_device(name: str) -> str:
    """The device type that `auto`, `cpu` or `cuda` means on this machine.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name == "cuda" and not available:
        raise ConfigError(
            f"device 'cuda' was asked for, but PyTorch {torch.__version__} sees no CUDA GPU. "
            f"Use device 'cpu' or 'auto', or install a CUDA build of PyTorch."
        )
    return name


def open_device(device_type: str) -> Device:
    """The device of this worker."""
    return CudaDevice(0) if device_type == "cuda" else CpuDevice()


def _cgroup_limit() -> int | None:
    """The memory limit of this control group (version 2, then 1), if there is one."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None
