from __future__ import annotations

import torch

from quire.plan import SlotStart
from quire.runtime.slot_state import SlotState
from quire.sampling_params import SamplingParams


def start(slot: int, token_ids: list[int]) -> SlotStart:
    return SlotStart(
        slot=slot,
        generation=1,
        request_id=str(slot),
        params=SamplingParams(),
        seed=0,
        token_ids=token_ids,
        num_prompt=len(token_ids),
        num_computed=0,
        block_ids=([1],),
    )


def test_slots_hold_the_last_token_and_the_length() -> None:
    state = SlotState(4, "cpu")
    state.seat([start(2, [5, 6, 7]), start(0, [9])])
    assert state.last_ids.tolist() == [9, 0, 7, 0]
    assert state.lengths.tolist() == [1, 0, 3, 0]
    state.seat([start(2, [4, 4])])  # the slot's next request
    assert (int(state.last_ids[2]), int(state.lengths[2])) == (4, 2)


def test_recording_twice_changes_nothing_more() -> None:
    state = SlotState(4, "cpu")
    state.seat([start(3, [5, 6]), start(1, [7])])
    for _ in range(2):
        state.record([1, 3], [1, 2], torch.tensor([30, 31]))
    assert state.last_ids.tolist() == [0, 30, 0, 31]
    assert state.lengths.tolist() == [0, 2, 0, 3]
