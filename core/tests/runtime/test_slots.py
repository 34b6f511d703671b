"""The worker's seats: what moves on with a step."""

from __future__ import annotations

from quire.plan import SlotStart
from quire.runtime.slots import SlotTable
from quire.sampling_params import SamplingParams


def test_a_step_moves_its_slots_on_and_no_others() -> None:
    table = SlotTable(3, max_model_len=4, block_size=2, windows=(None,))
    for slot in range(3):
        table.seat(
            SlotStart(
                slot=slot,
                generation=1,
                request_id=str(slot),
                params=SamplingParams(),
                seed=0,
                token_ids=[7] * (slot + 2),
                num_prompt=slot + 2,
                num_computed=0,
                block_ids=([1, 2],),
            )
        )
    table.advance([0, 2], [2, 4])
    # Slot 2 is as long as the context already: its id has a place all the same.
    table.append([0, 2], [2, 4], [8, 9])
    assert table.computed.tolist() == [2, 0, 4]
    assert table.num_tokens.tolist() == [3, 3, 5]
    assert table.token_ids.tolist() == [[7, 7, 8, 0, 0], [7, 7, 7, 0, 0], [7, 7, 7, 7, 9]]
