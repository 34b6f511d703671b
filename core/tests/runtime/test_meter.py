"""The peak is of what lives at one time: not of all that was made, nor of views and what was there before."""

from __future__ import annotations

import torch

from quire.runtime.meter import peak_bytes


def made(kilobytes: int) -> torch.Tensor:
    return torch.ones(kilobytes * 256)  # fp32


def test_what_is_gone_does_not_count() -> None:
    def work() -> None:
        for size in (3, 1, 2, 3):
            made(size)
        kept = [made(1) for _ in range(4)]
        del kept[1:]
        made(2)
        kept[0].view(16, 16).add_(1)

    assert peak_bytes("cpu", work) == 4 << 10


def test_a_later_peak_is_found_among_what_went_before_it() -> None:
    def work() -> None:
        first = made(5)
        del first
        second = made(2)
        third = made(4)
        assert third.numel() > second.numel()

    assert peak_bytes("cpu", work) == 6 << 10


def test_what_was_there_is_not_counted() -> None:
    there = made(9)
    assert peak_bytes("cpu", lambda: there.mul_(2)) == 0
