"""Scratch memory that calls of the library use one after the other."""

from __future__ import annotations

import torch


class Memory:
    """Grows when it must; what was taken before stays valid for who took it."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> torch.Tensor:
        """At least `size` bytes, uint8; every call gives the same memory while it suffices."""
        if self._bytes.numel() < size:
            self._bytes = torch.empty(size, dtype=torch.uint8)
        return self._bytes
