"""The part of `KernelsSuite` that holds what a captured step does over arrays of slots."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from quire.ops import Kernels
from quire.ops.slots import SlotShapes

VOCAB = 75
SLOTS = 7
FILLING = -1

CUTS = {"none": (False, False), "top-k": (True, False), "top-p": (False, True), "both": (True, True)}


class SlotChecks:
    """Mixed into `KernelsSuite`."""

    def test_inputs_are_those_of_the_slots(self, kernels: Kernels, device: str) -> None:
        last_ids = torch.arange(100, 100 + SLOTS, device=device)
        lengths = torch.arange(1, 1 + SLOTS, device=device)
        slots = torch.tensor([5, FILLING, 0, 6, 0, 0], device=device)
        given_ids = torch.tensor([-1, 30, -1, -1, 0, 31], device=device)
        given_positions = torch.tensor([8, 9, 8, 8, 1, 2], device=device)
        given = given_ids, given_positions
        ids, positions = kernels.take_inputs(last_ids, lengths, slots, *given)
        assert ids.tolist() == [105, 0, 100, 106, 0, 31]
        assert positions.tolist() == [5, 0, 0, 6, 1, 2]
        assert kernels.take_inputs(last_ids, lengths, *(one[:0] for one in (slots, *given)))[0].shape == (0,)

    def test_sampled_ids_are_recorded_in_place(self, kernels: Kernels, device: str) -> None:
        last_ids = torch.arange(100, 100 + SLOTS, device=device)
        lengths = torch.arange(1, 1 + SLOTS, device=device)
        slots = torch.tensor([5, FILLING, 0, FILLING], device=device)
        kernels.record_sampled(last_ids, lengths, slots, torch.tensor([7, 8, 9, 10], device=device))
        assert last_ids.tolist() == [9, 101, 102, 103, 104, 7, 106]
        assert lengths.tolist() == [2, 2, 3, 4, 5, 7, 7]

    @pytest.mark.parametrize("coupled", [False, True], ids=["inverted", "coupled"])
    @pytest.mark.parametrize("cuts", CUTS)
    def test_slots_sample_as_processors_one_by_one(
        self,
        kernels: Kernels,
        reference: Kernels,
        device: str,
        each_dtype: list[torch.dtype],
        cuts: str,
        coupled: bool,
    ) -> None:
        shapes = random_shapes(device, *CUTS[cuts])
        slots = torch.tensor([3, 0, FILLING, 6, 2, 1, 5, 4, 3], device=device)
        positions = torch.tensor([9, 1, 4, 1 << 33, 0, 7, 7, 3, 10], device=device)
        for dtype in each_dtype:
            logits = (3 * torch.randn(len(slots), VOCAB)).to(device, dtype)
            ids, invalid = kernels.sample_slots(logits, slots, positions, shapes, coupled=coupled)
            expected, bad = reference.sample_slots(logits, slots, positions, shapes, coupled=coupled)
            assert ids.tolist() == expected.tolist()
            assert invalid.tolist() == bad.tolist() == [False] * len(slots)
            assert (ids.dtype, invalid.dtype) == (torch.int64, torch.bool)
            assert ids[2] == 0

    def test_a_slot_samples_alike_in_any_batch(self, kernels: Kernels, device: str) -> None:
        shapes = random_shapes(device, True, True)
        slots, positions = torch.arange(SLOTS, device=device), torch.arange(SLOTS, device=device) * 3
        logits = 3 * torch.randn(SLOTS, VOCAB, device=device)
        ids, _ = kernels.sample_slots(logits, slots, positions, shapes)
        for i in range(SLOTS):
            one = slice(i, i + 1)
            own, _ = kernels.sample_slots(logits[one], slots[one], positions[one], shapes)
            assert own.tolist() == ids[one].tolist()

    @pytest.mark.parametrize("coupled", [False, True], ids=["inverted", "coupled"])
    def test_a_slots_bad_logits_are_its_own(self, kernels: Kernels, device: str, coupled: bool) -> None:
        shapes = replace(random_shapes(device, True, True), greedy=torch.arange(SLOTS, device=device) == 6)
        slots = positions = torch.arange(SLOTS, device=device)
        clean = torch.randn(SLOTS, VOCAB, device=device)
        dirty = clean.clone()
        dirty[0, 9], dirty[1], dirty[2], dirty[3, 11] = torch.nan, torch.nan, -torch.inf, torch.inf
        expected, _ = kernels.sample_slots(clean, slots, positions, shapes, coupled=coupled)
        ids, invalid = kernels.sample_slots(dirty, slots, positions, shapes, coupled=coupled)
        assert invalid.tolist() == [True, True, True, False, False, False, False]
        assert ids[3] == 11
        assert ids[4:].tolist() == expected[4:].tolist()
        assert bool(((ids >= 0) & (ids < VOCAB)).all())


def random_shapes(device: str, top_k: bool, top_p: bool) -> SlotShapes:
    """Slots of every kind: greedy, plain, hot, cold, with min-p, bounded, with a nucleus."""
    k = torch.tensor([VOCAB, 1, 5, 20, VOCAB, 3 * VOCAB, 40], device=device)
    p = torch.tensor([1.0, 0.5, 0.9, 0.3, 0.75, 1.0, 0.999], dtype=torch.float64, device=device)
    return SlotShapes(
        greedy=torch.tensor([False, False, False, False, True, False, False], device=device),
        temperature=torch.tensor([1.0, 0.7, 1.3, 2.0, 1.0, 0.1, 1.0], device=device),
        margin=torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0, 0.02, 0.3], device=device).log(),
        top_k=k if top_k else None,
        top_p=p if top_p else None,
        seed=torch.tensor([0, 1, -1, 1 << 40, 5, -(1 << 63), 77], device=device),
    )
