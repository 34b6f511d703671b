from __future__ import annotations

import pytest

from quire.errors import ConfigError, InvalidRequestError
from quire.scheduler.limits import check_admission, max_length

from .harness import Harness, config, request


@pytest.mark.parametrize("num_blocks", [(4,), (4, 9), (9, 4)])
def test_a_prompt_is_refused_just_when_it_and_one_token_exceed_the_pool(num_blocks: tuple[int, ...]) -> None:
    settings = config(num_blocks=num_blocks)  # 3 usable blocks of 4 tokens
    for length in (10, 11):
        harness = Harness(settings)
        harness.add(request("fits", [1] * length, max_tokens=50, ignore_eos=True))
        harness.run()
        harness.check_finished()
        assert len(harness.tokens("fits")) == 12 + 1 - length
        assert harness.outputs["fits", 0][-1].finish_reason == "length"
        assert harness.scheduler.stats().num_preemptions == 0
    for length in (12, 13):
        message = rf"{length} tokens and with one token of output needs 4 KV blocks .* the pool has 3\."
        with pytest.raises(InvalidRequestError, match=message) as error:
            check_admission(request("big", [1] * length), settings)
        assert error.value.field == "prompt"


def test_a_prompt_is_refused_just_when_it_and_one_token_exceed_max_model_len() -> None:
    settings = config(max_model_len=10)
    check_admission(request("fits", [1] * 9), settings)
    with pytest.raises(InvalidRequestError, match=r"10 tokens.* max_model_len=10\. Shorten.* 9 tokens"):
        check_admission(request("big", [1] * 10), settings)


def test_without_chunked_prefill_a_prompt_has_to_fit_one_step() -> None:
    settings = config(enable_chunked_prefill=False, max_num_batched_tokens=8)
    check_admission(request("fits", [1] * 8), settings)
    with pytest.raises(InvalidRequestError, match=r"9 tokens, more than max_num_batched_tokens=8"):
        check_admission(request("big", [1] * 9), settings)
    check_admission(request("big", [1] * 9), config(max_num_batched_tokens=8))


@pytest.mark.parametrize("bad", [-1, 2**31, 2**64])
def test_token_ids_beyond_any_vocabulary_are_refused(bad: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"token id {bad} is outside"):
        check_admission(request("r", [1, bad]), config())


def test_requests_without_anything_to_do_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="0 tokens; at least 1"):
        check_admission(request("r", []), config())
    idle = request("r", [1])
    idle.params.max_tokens = 0
    with pytest.raises(InvalidRequestError, match="max_tokens=0 must be at least 1"):
        check_admission(idle, config())


def test_a_live_request_id_is_refused_and_a_finished_one_is_free_again() -> None:
    harness = Harness(config())
    harness.add(request("r", [1, 2]))
    with pytest.raises(InvalidRequestError, match="'r' is in use"):
        harness.add(request("r", [3]))
    harness.run()
    harness.add(request("r", [3]))


def test_the_length_is_bounded_by_request_model_and_pool() -> None:
    assert max_length(request("r", [1] * 5, max_tokens=3), config()) == 8
    assert max_length(request("r", [1] * 5, max_tokens=500), config(max_model_len=20)) == 20
    assert max_length(request("r", [1] * 5, max_tokens=500), config(num_blocks=(9, 3))) == 9


@pytest.mark.parametrize("name", ["max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size"])
def test_a_configuration_that_allows_nothing_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0 must be at least 1"):
        config(**{name: 0})
    with pytest.raises(ConfigError, match="names no KV group"):
        config(num_blocks=())
