"""Sequences with drafts in the scheduler."""

from __future__ import annotations

import pytest

from .harness import Harness, alone, config, request


@pytest.mark.parametrize("block_size", [1, 2, 3])
@pytest.mark.parametrize("ahead", [2, 5])
@pytest.mark.parametrize("kept", [1, 2, 3])
def test_what_is_drafted_behind_an_end_is_not_kept(kept: int, ahead: int, block_size: int) -> None:
    settings = config(block_size=block_size, num_blocks=(65,), num_speculative_tokens=ahead)
    asked = request("r", [1, 2, 3], max_tokens=12, ignore_eos=True)
    output, _, _ = alone(asked, 0, settings)
    end = next(token for place, token in enumerate(output) if place >= kept and token not in output[:place])
    harness = Harness(settings)
    harness.add(request("r", [1, 2, 3], max_tokens=12, stop_token_ids=[end]))
    harness.run()
    harness.check_finished()
    assert harness.tokens("r")[-1] == end
