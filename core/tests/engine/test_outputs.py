"""Text is made when somebody looks: what it costs until then, and what never changes."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.inputs import PreparedRequest
from quire.engine.outputs import OutputProcessor
from quire.outputs import FinishReason, RequestOutput
from quire.request import EngineRequest, StepOutput
from quire.sampling_params import SamplingParams
from quire.text.tokenizer import Tokenizer

BROKEN = 99


class LetterTokenizer:
    """Id n is letter n of the alphabet; `BROKEN` cannot be decoded. Counts how often it is asked."""

    decoder_state: ClassVar[dict[str, Any]] = {"type": "ByteLevel"}
    special_ids: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.asked = 0

    def piece(self, token_id: int) -> str:
        self.asked += 1
        if token_id == BROKEN:
            raise RuntimeError("no such piece")
        return chr(ord("a") + token_id)

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(map(self.piece, ids))


def following(
    params: SamplingParams, *, deltas: bool = False
) -> tuple[OutputProcessor, LetterTokenizer, PreparedRequest]:
    tokenizer = LetterTokenizer()
    outputs = OutputProcessor(cast(Tokenizer, tokenizer))
    engine = EngineRequest(request_id="r", prompt_ids=[0], params=params, seed=0)
    request = PreparedRequest(engine=engine, prompt=None, params=params)
    outputs.add(request, deltas=deltas)
    tokenizer.asked = 0
    return outputs, tokenizer, request


def news(ids: list[int], reason: FinishReason | None = None, index: int = 0) -> StepOutput:
    return StepOutput(request_id="r", index=index, token_ids=ids, finish_reason=reason)


def test_a_request_that_nobody_watches_is_detokenized_once_at_its_end() -> None:
    outputs, tokenizer, _ = following(SamplingParams(max_tokens=9))
    for token in (1, 2, 3):
        assert outputs.process([news([token])], only_finished=True).outputs == []
    assert tokenizer.asked == 0
    (output,) = outputs.process([news([4], "length")], only_finished=True).outputs
    assert (output.outputs[0].text, output.outputs[0].token_ids, output.finished) == (
        "bcde",
        [1, 2, 3, 4],
        True,
    )


def test_a_stop_string_is_looked_for_in_every_step() -> None:
    outputs, _, _ = following(SamplingParams(max_tokens=9, stop="cd"))
    assert outputs.process([news([1])], only_finished=True).aborts == []
    assert outputs.process([news([2])], only_finished=True).aborts == []
    processed = outputs.process([news([3, 4])], only_finished=True)
    assert processed.aborts == [("r", 0)]
    (output,) = processed.outputs
    assert (output.outputs[0].text, output.outputs[0].stop_reason) == ("b", "cd")
    assert outputs.process([news([5])]).outputs == []  # a step late: dropped


@given(
    steps=st.lists(st.lists(st.integers(0, 25), min_size=1, max_size=3), min_size=1, max_size=6),
    looks=st.sets(st.integers(0, 5)),
    include=st.booleans(),
    reason=st.sampled_from(["stop", "length", "abort"]),
    watched=st.booleans(),
)
def test_the_text_is_the_same_however_often_it_is_looked_at(
    steps: list[list[int]], looks: set[int], include: bool, reason: FinishReason, watched: bool
) -> None:
    params = SamplingParams(max_tokens=99, include_stop_str_in_output=include, stop="~" if watched else None)
    whole, _, _ = following(params)
    parts, _, _ = following(params, deltas=True)
    seen: list[RequestOutput] = []
    last = len(steps) - 1
    for i, ids in enumerate(steps):
        one = news(ids, reason if i == last else None)
        final = whole.process([one], only_finished=i not in looks and i != last).outputs
        seen += parts.process([one]).outputs
    ids = [token for step in steps for token in step]
    visible = ids[:-1] if reason == "stop" and not include else ids
    text = "".join(chr(ord("a") + token) for token in visible)
    assert (final[0].outputs[0].text, final[0].outputs[0].token_ids) == (text, ids)
    assert "".join(output.outputs[0].text for output in seen) == text
    assert [token for output in seen for token in output.outputs[0].token_ids] == ids
    assert final[0].metrics is not None
    assert len(final[0].metrics.token_times) == len(ids)


def test_the_first_token_is_the_first_after_the_start() -> None:
    outputs, _, _ = following(SamplingParams(max_tokens=9))
    (early,) = outputs.process([news([1])]).outputs
    assert early.metrics is not None
    assert early.metrics.first_token_time is None
    later = news([2])
    later.scheduled_time = 5.0
    (output,) = outputs.process([later]).outputs
    assert output.metrics is not None
    assert output.metrics.first_scheduled_time == 5.0
    assert output.metrics.first_token_time is not None


@pytest.mark.parametrize("stop", [None, "~"])
@pytest.mark.parametrize("reason", [None, "length"])
def test_text_that_fails_ends_its_completion_and_aborts_what_goes_on(
    stop: str | None, reason: FinishReason | None
) -> None:
    outputs, _, _ = following(SamplingParams(max_tokens=9, stop=stop))
    processed = outputs.process([news([1, BROKEN], reason)])
    (output,) = processed.outputs
    assert output.finished
    assert output.error == "RuntimeError: no such piece"
    assert output.outputs[0].finish_reason == "error"
    assert processed.aborts == ([] if reason else [("r", 0)])
    assert output.metrics is not None
    assert output.metrics.finished_time is not None


def test_one_failed_text_leaves_the_other_completions() -> None:
    outputs, _, _ = following(SamplingParams(max_tokens=9, n=2, temperature=1.0))
    processed = outputs.process([news([BROKEN]), news([1], index=1)])
    assert processed.aborts == [("r", 0)]
    assert not processed.outputs[0].finished
    (output,) = outputs.process([news([2], "length", index=1)]).outputs
    assert (output.finished, output.outputs[1].text) == (True, "bc")
