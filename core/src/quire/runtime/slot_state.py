"""Each slot's last token and length where the device itself reads and writes them.

A step that is begun before the host knows what the last one drew takes its tokens from here. Knows slots;
never requests, nor what a step does with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quire.ops.upload import upload
from quire.plan import SlotStart


class SlotState:
    """The slots of one worker on its device. Everything is done in the order of its stream, without a wait.

    Attributes:
        last_ids: `[slots]` int64; the last token of each seated slot.
        lengths: `[slots]` int64; its number of tokens.
    """

    def __init__(self, num_slots: int, device: str) -> None:
        self.last_ids = torch.zeros(num_slots, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(num_slots, dtype=torch.int64, device=device)

    def seat(self, starts: Sequence[SlotStart]) -> None:
        """Take over what is known of requests that begin."""
        lengths = [len(start.token_ids) for start in starts]
        last = [start.token_ids[-1] for start in starts]
        given = torch.tensor([[start.slot for start in starts], last, lengths])
        slots, ids, ends = upload(self.last_ids.device, given)[0]
        self.last_ids[slots] = ids
        self.lengths[slots] = ends

    def record(self, slots: Sequence[int], positions: Sequence[int], ids: torch.Tensor) -> None:
        """The last token of slot `slots[i]` is `ids[i]` (`[R]`, on the device), at `positions[i]`.

        Says where, not how many more: to do it again changes nothing.
        """
        place, last = upload(ids.device, torch.tensor([slots, positions]))[0]
        self.last_ids[place] = ids
        self.lengths[place] = last + 1
