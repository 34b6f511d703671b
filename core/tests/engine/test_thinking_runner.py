"""Who has spent a budget of thinking, by the texts of outputs."""

from __future__ import annotations

from quire.engine.thinking_runner import ThinkingRunner
from quire.request import EngineRequest, StepOutput, ThinkingBudget
from quire.sampling_params import SamplingParams

from .played_thinking import bracket_reader

END = tuple(map(ord, ":-)"))


def follow(tokens: int, *, opened: bool = False, n: int = 1) -> ThinkingRunner:
    runner = ThinkingRunner(bracket_reader)
    budget = ThinkingBudget(tokens=tokens, open=opened, end_ids=END, prompt="")
    params = SamplingParams(n=n, max_tokens=99)
    runner.add(EngineRequest(request_id="r", prompt_ids=[48], params=params, seed=0, thinking=budget))
    return runner


def said(runner: ThinkingRunner, text: str, index: int = 0) -> list[int | None]:
    """Where the output is to be asked about again."""
    news = StepOutput(request_id="r", index=index, token_ids=list(map(ord, text)))
    return [after for _, after in runner.advance([news])]


def due(runner: ThinkingRunner) -> str:
    return "".join(chr(token) for _, ids in runner.due() for token in ids)


def test_a_thinking_that_may_still_begin_needs_a_token_for_that() -> None:
    runner = follow(3)
    assert said(runner, " ") == [5]
    assert said(runner, "ab") == [7]
    assert said(runner, "(") == [7]
    assert said(runner, "xy") == [7]
    assert due(runner) == ""
    assert said(runner, "z") == []
    assert due(runner) == ":-)"
    runner.ended(("r", 0))
    assert (runner.due(), runner.num_ended) == ([], 1)


def test_what_is_over_is_never_asked_about_again() -> None:
    for text in ("(ab)", "(a)c"):
        runner = follow(9)
        assert said(runner, text) == [None]
        assert said(runner, "more") == []
        assert runner.due() == []


def test_an_end_that_has_begun_lacks_its_rest_alone() -> None:
    for text, rest in (("(xx:", "-)"), ("(x:-", ")"), ("(-::", "-)"), ("(:-x", ":-)")):
        runner = follow(3)
        said(runner, text)
        assert due(runner) == rest


def test_no_thinking_at_all_is_due_from_the_start_for_every_completion() -> None:
    runner = follow(0, opened=True, n=2)
    assert due(runner) == ":-):-)"
    runner.ended(("r", 1))
    runner.advance([StepOutput(request_id="r", index=0, finish_reason="abort")])
    assert runner.due() == []
    assert said(runner, "x") == []


def test_a_parser_that_breaks_costs_the_budget_alone() -> None:
    runner = follow(2, n=2)
    assert said(runner, "(!") == [None]
    assert said(runner, "(a", index=1) == [3]
    assert said(runner, "b", index=1) == []
    assert [key for key, _ in runner.due()] == [("r", 1)]
