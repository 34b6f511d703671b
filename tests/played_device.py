"""A processor that plays a device which works by itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quire.runtime.device import CpuDevice, Fetch, OnHost


class PlayedDevice(CpuDevice):
    """Works at once, and does not let on."""

    asynchronous = True

    def fetch(self, tensors: Sequence[torch.Tensor]) -> Fetch:
        """Copies made when they were asked for, as a stream would make them."""
        return OnHost([one.clone() for one in tensors])
