"""Processors that play a device which works by itself, and one which captures graphs besides.

What is "captured" is the work itself, done again at every replay: it sees only what was put where the
captured step's inputs lay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from quire.contracts import AttentionBatch, GraphSupport
from quire.ops import Kernels
from quire.runtime import worker as worker_module
from quire.runtime.device import CpuDevice, Fetch, OnHost
from quire_attn_torch.backend import TorchAttention


class PlayedDevice(CpuDevice):
    """Works at once, and does not let on."""

    asynchronous = True

    def fetch(self, tensors: Sequence[torch.Tensor]) -> Fetch:
        """Copies made when they were asked for, as a stream would make them."""
        return OnHost([one.clone() for one in tensors])


@dataclass(slots=True)
class PlayedGraph:
    work: Callable[[], None]
    replays: list[int]
    number: int

    def replay(self) -> None:
        self.replays.append(self.number)
        self.work()


class CapturingDevice(PlayedDevice):
    """One that captures, too."""

    captures = True

    def __init__(self) -> None:
        super().__init__()
        self.captured = 0
        self.replays: list[int] = []

    def capture(self, work: Callable[[], None]) -> PlayedGraph:
        work()
        self.captured += 1
        return PlayedGraph(work, self.replays, self.captured - 1)


class Held:
    """Metadata whose content is exchanged in place, as a captured step's is."""

    def __init__(self, content: Any) -> None:
        self.content = content


class CapturedAttention(TorchAttention):
    """The reference's attention with metadata that a graph can keep."""

    graph_support = GraphSupport.DECODE

    def plan(self, batch: AttentionBatch) -> Any:
        return Held(super().plan(batch))

    def forward(self, *arguments: Any) -> torch.Tensor:
        q, k, v, kv, metadata, *rest = arguments
        return super().forward(q, k, v, kv, metadata.content, *rest)

    def begin_replay(self, metadata: Held, batch: AttentionBatch) -> None:
        metadata.content = super().plan(batch)


def play_graphs(monkeypatch: pytest.MonkeyPatch) -> CapturingDevice:
    """Have engines run on such a device; on one and the same, if several are opened.

    They need the attention backend `torch` and the kernels `reference`.
    """
    device = CapturingDevice()
    monkeypatch.setattr(worker_module, "open_device", lambda name: device)
    monkeypatch.setattr("quire_attn_torch.backend.TorchAttention", CapturedAttention)
    monkeypatch.setattr(Kernels, "captures_sampling", True)  # what is played may look at the device
    return device
