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
    sizes = [-(-one.nbytes // _ALIGNMENT) * _ALIGNMENT for one in tensors]
    staged = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
    parts = staged.split(sizes)
    for part, one in zip(parts, tensors, strict=True):
        part[: one.nbytes].copy_(one.contiguous().view(-1).view(torch.uint8))
    moved = staged.to(device, non_blocking=True).split(sizes)
    return [
        part[: one.nbytes].view(one.dtype).view(one.shape) for part, one in zip(moved, tensors, strict=True)
    ]
