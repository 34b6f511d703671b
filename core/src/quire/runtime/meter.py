"""Measures how much memory a piece of work holds at its peak, besides what was there before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def peak_bytes(device: str, work: Callable[[], object]) -> int:
    """Peak bytes of tensors that `work` made and held at one time.

    On a GPU the allocator knows. On a CPU nobody does (the process's resident size says what the
    allocator kept, not what was needed), so every operation's results are followed while they live.
    """
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
        before: int = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        held: int = torch.cuda.max_memory_allocated(device) - before
        return max(held, 0)
    live = _LiveTensors()
    with live:
        work()
    return live.peak


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations create, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._most = 0  # bytes, some perhaps gone by now: looked at only once they could be a new peak

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """torch would import its compiler, 1.3 s, only to tell it to leave this class alone."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_iter((args, kwargs))
            if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided
        }
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided:
                storage = leaf.untyped_storage()
                if storage._cdata not in given:  # a new storage, not a view or an in-place result
                    self._live[storage._cdata] = (
                        StorageWeakRef(storage),  # type: ignore[no-untyped-call]
                        storage.nbytes(),
                    )
                    self._most += storage.nbytes()
        if self._most > self.peak:
            self._forget_what_is_gone()
            self.peak = max(self.peak, self._most)
        return result

    def _forget_what_is_gone(self) -> None:
        gone = [key for key, (ref, _) in self._live.items() if ref.expired()]  # type: ignore[no-untyped-call]
        for key in gone:
            del self._live[key]
        self._most = sum(size for _, size in self._live.values())
