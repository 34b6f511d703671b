"""`TritonSamplingOps`: from logits to token ids on the device, without a wait for it.

Takes logits of 32 or 16 bits whose rows are contiguous; every other form is left to the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from quire.ops.logprobs import LogprobOps
from quire.ops.masks import MaskOps
from quire.ops.slots import SlotOps, SlotShapes
from quire.ops.upload import upload
from quire_kernels_triton.availability import INSTALLED

if TYPE_CHECKING or INSTALLED:
    from quire_kernels_triton import cut, draw, edits, logprobs, masks, peak, race, slots
    from quire_kernels_triton.shape import RowShapes


class TritonSamplingOps(LogprobOps, SlotOps, MaskOps):
    """A row's token depends on that row alone, however rows are shared out among programs."""

    captures_sampling = True

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        """As the reference, each row shared out among programs."""
        return self.peak(logits)[0] if peak.takes(logits) else super().argmax(logits)

    def peak(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the reference, each row shared out among programs."""
        return peak.peak(logits) if peak.takes(logits) else super().peak(logits)

    def apply_token_bitmask(self, logits: torch.Tensor, bits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """As the reference, in one launch; which mask is whose goes to the device where not all have one."""
        if not peak.takes(logits) or not rows:
            return super().apply_token_bitmask(logits, bits, rows)
        mask_of_row = None
        if len(rows) < len(logits):
            on_host = torch.full((len(logits),), -1, dtype=torch.int32)
            on_host[rows] = torch.arange(len(rows), dtype=torch.int32)
            (mask_of_row,) = upload(logits.device, on_host)
        return masks.keep_legal(logits, bits.contiguous(), mask_of_row)

    def apply_penalties(
        self,
        logits: torch.Tensor,
        rows: torch.Tensor,
        ids: torch.Tensor,
        counts: torch.Tensor,
        repetition: torch.Tensor,
        frequency: torch.Tensor,
        presence: torch.Tensor,
    ) -> torch.Tensor:
        """As the reference, entries in one launch after the copy."""
        if len(rows) == 0 or logits.dtype != torch.float32:
            return super().apply_penalties(logits, rows, ids, counts, repetition, frequency, presence)
        places = rows * logits.shape[1] + ids
        each = (repetition[rows], counts, frequency[rows], presence[rows])
        return edits.penalise(logits, *upload(logits.device, places, *each))

    def apply_temperature(self, logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        """As the reference, in one pass from the logits' dtype to fp32."""
        if not peak.takes(logits) or bool((temperature == 1).all()):
            return super().apply_temperature(logits, temperature)
        return edits.temper(logits, *upload(logits.device, temperature))

    def apply_min_p(self, logits: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
        """As the reference."""
        if not _takes(logits) or not bool((min_p > 0).any()):
            return super().apply_min_p(logits, min_p)
        margin = upload(logits.device, min_p.log().float())
        return edits.drop_unlikely(logits, peak.peak(logits)[1], *margin)

    def apply_top_k_top_p(
        self, logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
    ) -> torch.Tensor:
        """As the reference, up to the rounding of the probabilities' sums; no row is sorted."""
        bounded, nucleus = bool((top_k < logits.shape[1]).any()), bool((top_p < 1).any())
        if not _takes(logits) or not (bounded or nucleus):
            return super().apply_top_k_top_p(logits, top_k, top_p)
        k, p = upload(logits.device, top_k, top_p)
        shapes = RowShapes(top_k=k if bounded else None, top_p=p if nucleus else None)
        _, peaks, _ = peak.peak(logits)
        return draw.keep(logits, peaks, *cut.cuts(logits, peaks, shapes))

    def draw_from(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """As the reference, up to the rounding of the probabilities' sums."""
        if not peak.takes(logits):
            return super().draw_from(logits, uniforms)
        _, peaks, _ = peak.peak(logits)
        return draw.draw(logits, peaks, RowShapes(), None, *upload(logits.device, uniforms))

    def draw_coupled(self, logits: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """As the reference, but where two tokens arrive at the same time up to rounding."""
        if not peak.takes(logits):
            return super().draw_coupled(logits, keys)
        return race.race(logits, *upload(logits.device, keys.contiguous()))

    def log_softmax_gather(
        self, logits: torch.Tensor, ids: torch.Tensor, k: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the reference, in two passes over the logits that write nothing of their size."""
        if not peak.takes(logits):
            return super().log_softmax_gather(logits, ids, k)
        _, peaks, _ = peak.peak(logits)
        chosen, rank, normaliser = logprobs.gather(logits, ids.contiguous(), peaks)
        values, top_ids = logits.topk(k, dim=-1)
        top = values.float() - peaks.float().unsqueeze(1) - normaliser.unsqueeze(1)
        return chosen, rank, top, top_ids

    def sample_slots(
        self,
        logits: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        shapes: SlotShapes,
        *,
        coupled: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the reference, with nothing of the logits' size written in between."""
        if not peak.takes(logits):
            return super().sample_slots(logits, slots, positions, shapes, coupled=coupled)
        best, peaks, _ = peak.peak(logits)
        own = RowShapes(
            slots=slots,
            temperature=shapes.temperature,
            margin=shapes.margin,
            top_k=shapes.top_k,
            top_p=shapes.top_p,
        )
        cuts = None
        if shapes.top_k is not None or shapes.top_p is not None:
            cuts = cut.cuts(logits, peaks, own)
        by_slot = race.race_by_slot if coupled else draw.draw_by_slot
        return by_slot(logits, (best, peaks), own, cuts, (shapes.seed, positions), shapes.greedy)

    def take_inputs(
        self,
        last_ids: torch.Tensor,
        lengths: torch.Tensor,
        slots_: torch.Tensor,
        given_ids: torch.Tensor,
        given_positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As the reference, in one launch."""
        return slots.take(last_ids, lengths, slots_, given_ids, given_positions)

    def record_sampled(
        self, last_ids: torch.Tensor, lengths: torch.Tensor, slots_: torch.Tensor, ids: torch.Tensor
    ) -> None:
        """As the reference, in one launch."""
        slots.record(last_ids, lengths, slots_, ids)


def _takes(logits: torch.Tensor) -> bool:
    """Whether kernels edit such logits, and there are any."""
    return peak.takes(logits) and logits.dtype == torch.float32
