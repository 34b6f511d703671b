"""A decode step's beginning and end over arrays of slots that live on the device.

What a captured step does besides the model: rows read their input where the last step left it, and leave
their token for the next. Nothing here waits for the device or has a shape that depends on data, so
they can be captured; the reference of `sample_slots` alone looks at the device, and cannot.

A row of a negative slot fills a batch up to a captured size: it changes no slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from quire.ops.philox import uniforms, words
from quire.ops.sampling import SamplingOps


@dataclass(frozen=True, slots=True)
class SlotShapes:
    """What shapes each slot's distribution, `[S]` on the device.

    Attributes:
        greedy: bool; True where a slot takes its argmax, whatever else it has.
        temperature: fp32 above 0.
        margin: fp32, the logarithm of min-p; -inf for off.
        top_k: int64, V or more for off; None if no slot has one: nothing is looked for then.
        top_p: fp64 in (0, 1], 1 for off; None if no slot has one.
        seed: int64, the bits of the unsigned seed.
    """

    greedy: torch.Tensor
    temperature: torch.Tensor
    margin: torch.Tensor
    top_k: torch.Tensor | None
    top_p: torch.Tensor | None
    seed: torch.Tensor


class SlotOps(SamplingOps):
    """Reads and updates indexed by slot, and sampling with parameters indexed by slot.

    Attributes:
        captures_sampling: `peak` and `sample_slots` can be captured here, and draw in a captured step. The
            reference stays as it is, sharing every processor with steps that are not captured: whoever has
            a device with graphs has kernels for it.
    """

    captures_sampling: ClassVar[bool] = False

    def take_inputs(
        self,
        last_ids: torch.Tensor,
        lengths: torch.Tensor,
        slots: torch.Tensor,
        given_ids: torch.Tensor,
        given_positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The token that each row continues with, and its position.

        Args:
            last_ids: `[S]` int64, each slot's last token.
            lengths: `[S]` int64, tokens of each slot.
            slots: `[R]` int64.
            given_ids: `[R]` int64, a row's token whatever its slot's last one is; negative for that one.
            given_positions: `[R]` int64, the position of a row whose token is given.

        Returns:
            `last_ids[slots]` and `lengths[slots] - 1`, or what is given, `[R]` int64 each; 0 and 0 for a
            negative slot.
        """
        seated, given, place = slots >= 0, given_ids >= 0, slots.clamp(min=0)
        ids = torch.where(given, given_ids, last_ids[place])
        positions = torch.where(given, given_positions, lengths[place] - 1)
        return torch.where(seated, ids, 0), torch.where(seated, positions, 0)

    def record_sampled(
        self, last_ids: torch.Tensor, lengths: torch.Tensor, slots: torch.Tensor, ids: torch.Tensor
    ) -> None:
        """Make each row's token its slot's last, and the slot one longer; in place.

        Args:
            last_ids, lengths: `[S]` int64; written to.
            slots: `[R]` int64, none twice but negative ones.
            ids: `[R]` int64.
        """
        place = torch.where(slots >= 0, slots, len(last_ids))  # past the end, where nobody reads
        last_ids.copy_(torch.cat((last_ids, last_ids[:1])).scatter_(0, place, ids)[:-1])
        longer = torch.ones_like(place)
        lengths.copy_(torch.cat((lengths, lengths[:1])).scatter_add_(0, place, longer)[:-1])

    def sample_slots(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        shapes: SlotShapes,
        *,
        coupled: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One token per row: temperature, min-p, top-k, top-p, then a draw, or the argmax of a greedy slot.

        The draw's numbers are those of `quire.ops.philox` for the slot's seed and the row's position.

        Args:
            logits: `[R, V]`, any float dtype.
            slots: `[R]` int64.
            positions: `[R]` int64, of the token being sampled.
            shapes: parameters by slot.
            coupled: draw as `draw_coupled` instead of as `draw_from`.

        Returns:
            ids `[R]` int64, and `[R]` bool: True where a row had NaN or nothing above -inf; its id is any
            in [0, V). Id 0 and False for a negative slot.
        """
        seated = (slots >= 0).cpu()
        place = slots.clamp(min=0)
        best, peak, invalid = self.peak(logits)

        temperature = shapes.temperature[place].cpu()
        work = self.apply_temperature(logits.float(), temperature)  # [R, V] fp32
        infinite = ((peak / shapes.temperature[place]) == torch.inf).unsqueeze(1)
        work = torch.where(infinite, torch.where(work == torch.inf, 0.0, -torch.inf), work)
        work = self.apply_min_p(work, shapes.margin[place].cpu().double().exp())
        if shapes.top_k is not None or shapes.top_p is not None:
            rows, vocab = logits.shape
            top_k = torch.full((rows,), vocab) if shapes.top_k is None else shapes.top_k[place].cpu()
            top_p = (
                torch.ones(rows, dtype=torch.float64) if shapes.top_p is None else shapes.top_p[place].cpu()
            )
            work = self.apply_top_k_top_p(work, top_k, top_p)

        seeds = shapes.seed[place].cpu().numpy().view("uint64")
        places = positions.cpu().numpy()
        if coupled:
            drawn = self.draw_coupled(work, torch.from_numpy(words(seeds, places)))
        else:
            drawn = self.draw_from(work, torch.from_numpy(uniforms(seeds, places)))
        ids = torch.where(shapes.greedy[place], best, drawn)
        filling = ~seated.to(logits.device)
        return ids.masked_fill(filling, 0), invalid & ~filling
