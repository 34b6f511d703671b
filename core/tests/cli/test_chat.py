"""`quire chat`: history, commands, and turns that cannot be answered."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result

from quire.cli import _engine, chat
from quire.cli.chat import Answer, Conversation
from quire.config import EngineConfig
from quire.errors import EngineError, InvalidRequestError
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams

Run = Callable[..., Result]


def answers(llm: Any, **params: Any) -> Answer:
    return lambda messages: llm.stream_chat(messages, SamplingParams(**params))


def turn(answer: Answer, conversation: Conversation, text: str, *, interactive: bool) -> None:
    chat._turn(answer, conversation, text, interactive, chat._noted_interrupt)


def asked(fakes: Any) -> list[str]:
    return [prompt for prompt, _ in fakes.last.asked]


def test_the_history_grows(fakes: Any, run: Run) -> None:
    result = run("chat", "tiny", "--quiet", "--max-tokens", "4", input="hi\n\nyo\n")
    assert result.exit_code == 0
    assert result.stdout == "user\nuser\n"
    assert asked(fakes) == ["user:hi", "user:hi assistant:user user:yo"]
    assert "(cut off: --max-tokens" in result.stderr
    assert fakes.last.down


def test_system_and_reset_and_quit(fakes: Any, run: Run) -> None:
    script = "a\n/reset\nb\n/system be kind\nc\n/system\nd\n/wat\n/help\n/quit\nnever\n"
    result = run("chat", "tiny", "--system", "s", "--max-tokens", "1", input=script)
    assert asked(fakes) == ["system:s user:a", "system:s user:b", "system:be kind user:c", "user:d"]
    assert "Unknown command '/wat'" in result.stderr
    assert "Ctrl-D" in result.stderr


def test_an_answer_is_512_tokens_at_most_unless_told(fakes: Any, run: Run) -> None:
    run("chat", "tiny", input="a\n")
    run("chat", "tiny", "--max-tokens", "7", input="a\n")
    assert [llm.asked[0][1].max_tokens for llm in fakes.opened] == [512, 7]


def test_piped_in_an_overflow_ends_with_the_reason(fakes: Any, run: Run) -> None:
    result = run("chat", "tiny", "--max-tokens", "1", input="a\n" + "x" * 300 + "\n")
    assert result.exit_code == 1
    assert "the context has 200" in result.stderr


def test_in_the_terminal_an_overflow_is_taken_back(
    fakes: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = iter(["a", "x" * 300, "b"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed, None) or _end())
    llm = _engine.open_llm(EngineConfig())
    chat._talk(answers(llm, max_tokens=1), Conversation(), interactive=True)
    captured = capsys.readouterr()
    assert "error: the prompt has 305 tokens; the context has 200" not in captured.err  # history counts too
    assert "the context has 200 Use /reset to start over." in captured.err
    assert asked(fakes)[-1] == "user:a assistant:u user:b"


def _end() -> str:
    raise EOFError


class Interrupted:
    """Gets Ctrl-C while its n-th token is on the way."""

    def __init__(self, llm: Any, token: int) -> None:
        self._llm, self._token = llm, token
        self.closed = False

    def stream_chat(self, messages: Any, params: Any) -> Iterator[RequestOutput]:
        try:
            for count, output in enumerate(self._llm.stream_chat(messages, params), start=1):
                if count == self._token:
                    signal.raise_signal(signal.SIGINT)
                yield output
        finally:
            self.closed = True


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(
    fakes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    llm: Any = Interrupted(_engine.open_llm(EngineConfig()), token=3)
    before = signal.getsignal(signal.SIGINT)
    conversation = Conversation()
    turn(answers(llm, max_tokens=9), conversation, "hi", interactive=True)
    assert conversation.messages == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "use"},
    ]
    assert capsys.readouterr().out == "use\n"
    assert llm.closed  # which is how the engine learns that nobody reads on
    assert signal.getsignal(signal.SIGINT) is before


def test_piped_in_ctrl_c_ends_the_chat(fakes: Any) -> None:
    llm: Any = Interrupted(_engine.open_llm(EngineConfig()), token=1)
    with pytest.raises(KeyboardInterrupt):
        turn(answers(llm, max_tokens=9), Conversation(), "hi", interactive=False)


def test_a_second_ctrl_c_does_not_wait(fakes: Any) -> None:
    llm: Any = Interrupted(Interrupted(_engine.open_llm(EngineConfig()), token=2), token=2)
    with pytest.raises(KeyboardInterrupt):
        turn(answers(llm, max_tokens=9), Conversation(), "hi", interactive=True)


def test_a_dead_engine_ends_the_chat(fakes: Any) -> None:
    fakes.error = EngineError("the worker is gone")
    llm = _engine.open_llm(EngineConfig())
    with pytest.raises(EngineError, match="the worker is gone"):
        turn(answers(llm), Conversation(), "hi", interactive=True)


def test_a_chat_has_one_answer(fakes: Any, run: Run) -> None:
    result = run("chat", "tiny", "--n", "2", input="a\n")
    assert (result.exit_code, fakes.opened) == (1, [])
    assert "n: a chat has one answer per turn, got 2" in result.stderr


def test_an_invalid_turn_leaves_no_trace(fakes: Any) -> None:
    llm = _engine.open_llm(EngineConfig())
    conversation = Conversation("s")
    with pytest.raises(InvalidRequestError):
        turn(answers(llm), conversation, "x" * 300, interactive=False)
    assert conversation.messages == [{"role": "system", "content": "s"}]
