"""Small host tensors on their way to the device, without a wait for what the device is doing."""

from __future__ import annotations

import torch

_ALIGNMENT = 16


def upload(device: torch.device, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """Copies on a device of tensors of the host: one asynchronous copy from pinned memory for all of them.

    A plain `.to(device)` waits until the device has done all it was given before. On a CPU the tensors
    themselves are returned.

    Args:
        device: where to.
        tensors: of any dtypes and shapes, on the host.

    Returns:
        As many contiguous tensors, in order; views of one memory if there is a copy.
    """
    if device.type == "cpu":
        return list(tensors)
    staged = pack(tensors, pin_memory=True)
    return unpack(staged.to(device, non_blocking=True), tensors)


def pack(tensors: tuple[torch.Tensor, ...], *, pin_memory: bool) -> torch.Tensor:
    """All tensors' bytes in one `[B]` uint8, each on a boundary that every dtype may begin at."""
    packed = torch.empty(sum(map(_room, tensors)), dtype=torch.uint8, pin_memory=pin_memory)
    for part, one in zip(unpack(packed, tensors), tensors, strict=True):
        part.copy_(one)
    return packed


def unpack(packed: torch.Tensor, like: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """Views of what `pack` wrote: the dtypes and shapes of `like`, on the device of `packed`."""
    parts, start = [], 0
    for one in like:
        parts.append(packed[start : start + one.nbytes].view(one.dtype).view(one.shape))
        start += _room(one)
    return parts


def _room(one: torch.Tensor) -> int:
    return -(-one.nbytes // _ALIGNMENT) * _ALIGNMENT
