"""The little of the hardware that the runtime touches, behind one interface.

`cpu` and `cuda` are here; tests use a fake. What only kernels need stays in kernels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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


class Fetch(Protocol):
    """Tensors on their way to the host."""

    def wait(self) -> list[torch.Tensor]:
        """Them, on the host, as they were when they were asked for."""


class Graph(Protocol):
    """Work that was captured."""

    def replay(self) -> None:
        """Do it again, on what now lies where its inputs lay."""


class Device(Protocol):
    """What the runtime asks of the hardware.

    Attributes:
        type: "cpu" or "cuda".
        name: torch device string.
        collective_backend: of `torch.distributed`.
        asynchronous: work goes on after a call returns. Then the next step is planned and begun meanwhile.
        captures: `capture` works. Such a device is asynchronous, too.
    """

    type: str
    name: str
    collective_backend: str
    asynchronous: bool
    captures: bool

    def memory(self) -> Memory:
        """Memory now."""

    def synchronize(self) -> None:
        """Wait until all work handed to the device is done."""

    def empty_cache(self) -> None:
        """Give memory that the allocator keeps back to the device."""

    def fetch(self, tensors: Sequence[torch.Tensor]) -> Fetch:
        """Have tensors copied to the host once what was asked of the device before is done.

        To wait for them is to wait for no later work.
        """

    def capture(self, work: Callable[[], None]) -> Graph:
        """Work that waits for nothing and writes where it always will, to be replayed.

        Graphs of one device share their memory: what one leaves there is gone when another is replayed.
        """


@dataclass(frozen=True, slots=True)
class OnHost:
    """A `Fetch` of what is there."""

    tensors: list[torch.Tensor]

    def wait(self) -> list[torch.Tensor]:
        """Them."""
        return self.tensors


@dataclass(frozen=True, slots=True)
class _FromCuda:
    """A `Fetch` into pinned memory."""

    tensors: list[torch.Tensor]
    done: torch.cuda.Event

    def wait(self) -> list[torch.Tensor]:
        """Wait for the copies."""
        self.done.synchronize()
        return self.tensors


class CpuDevice:
    """The host's processors and memory."""

    type = "cpu"
    name = "cpu"
    collective_backend = "gloo"
    asynchronous = False
    captures = False

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

    def fetch(self, tensors: Sequence[torch.Tensor]) -> Fetch:
        """They are there."""
        return OnHost(list(tensors))

    def capture(self, work: Callable[[], None]) -> Graph:
        """Raises NotImplementedError: a processor needs no graphs."""
        raise NotImplementedError("graphs are captured on GPUs")


class CudaDevice:
    """One NVIDIA GPU."""

    type = "cuda"
    collective_backend = "nccl"
    asynchronous = True
    captures = True

    def __init__(self, index: int) -> None:
        self.name = f"cuda:{index}"
        self._pool: Any = None

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

    def fetch(self, tensors: Sequence[torch.Tensor]) -> Fetch:
        """Copies into pinned memory, and an event after them."""
        copies = [torch.empty_like(one, device="cpu", pin_memory=True) for one in tensors]
        for copy, one in zip(copies, tensors, strict=True):
            copy.copy_(one, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self.name))
        return _FromCuda(copies, done)

    def capture(self, work: Callable[[], None]) -> Graph:
        """A CUDA graph."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        # Once outside: kernels are compiled and libraries take their workspaces, which no capture allows.
        side = torch.cuda.Stream(self.name)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self.name))
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream(self.name).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=side):
            work()
        return graph


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
