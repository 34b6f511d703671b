"""A fake engine in the place of the real one, and a way to run commands as the frame does."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from quire.cli import _engine, main
from quire.config import EngineConfig
from quire.errors import InvalidRequestError
from quire.outputs import CompletionOutput, RequestMetrics, RequestOutput
from quire.sampling_params import SamplingParams

CONTEXT = 200


class FakeTokenizer:
    """One token per character."""

    vocab_size = 100

    def encode(self, text: str) -> list[int]:
        return [ord(char) % self.vocab_size for char in text]


class FakeReport:
    def lines(self) -> list[str]:
        return ["started at once"]


class FakeLLM:
    """Answers "<prompt>!" repeated, a character per token, and keeps what it was asked."""

    startup_report = FakeReport()

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.asked: list[tuple[Any, SamplingParams]] = []
        self.down = False
        self.error: BaseException | None = None

    def get_default_sampling_params(self) -> SamplingParams:
        return SamplingParams(top_p=0.9)

    def get_tokenizer(self) -> FakeTokenizer:
        return FakeTokenizer()

    def shutdown(self) -> None:
        self.down = True

    def stream(self, prompt: Any, sampling_params: SamplingParams | None = None) -> Iterator[RequestOutput]:
        assert sampling_params is not None
        self.asked.append((prompt, sampling_params))
        ids = prompt["prompt_token_ids"] if isinstance(prompt, dict) else FakeTokenizer().encode(str(prompt))
        if len(ids) > CONTEXT:
            raise InvalidRequestError(f"the prompt has {len(ids)} tokens; the context has {CONTEXT}")
        return self._run(f"{prompt}!" * 3, ids, sampling_params)

    def _run(self, text: str, ids: list[int], params: SamplingParams) -> Iterator[RequestOutput]:
        full = min(params.max_tokens or len(text), len(text))
        for length in range(1, full + 1):
            if self.error is not None and length == full:
                raise self.error
            done = length == full
            yield RequestOutput(
                request_id="0",
                prompt=None,
                prompt_token_ids=ids,
                outputs=[
                    CompletionOutput(
                        index=index,
                        text=text[:length],
                        token_ids=list(range(length)),
                        cumulative_logprob=float("-inf"),
                        finish_reason="length" if done else None,
                    )
                    for index in range(params.n)
                ],
                finished=done,
                metrics=RequestMetrics(
                    1.0, 1.0, 1.5, 3.0, token_times=(1.5, 1.75, 2.0, 2.25, 3.0)[:length] if done else ()
                ),
            )

    def stream_chat(
        self, messages: Sequence[Any], sampling_params: SamplingParams | None = None
    ) -> Iterator[RequestOutput]:
        return self.stream(" ".join(f"{one['role']}:{one['content']}" for one in messages), sampling_params)

    def generate(
        self, prompts: Any, sampling_params: Any = None, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        prompts = prompts if isinstance(prompts, list) else [prompts]
        params = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        return [list(self.stream(*pair))[-1] for pair in zip(prompts, params, strict=True)]


@dataclass
class Fakes:
    """Engines opened so far, and what the next ones raise at the end of a stream."""

    opened: list[FakeLLM]
    error: BaseException | None = None

    @property
    def last(self) -> FakeLLM:
        return self.opened[-1]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of whoever runs the tests must not reach them."""
    for name in [name for name in os.environ if name.startswith("QUIRE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    fakes = Fakes([])

    def open_llm(config: EngineConfig) -> FakeLLM:
        llm = FakeLLM(config)
        llm.error = fakes.error
        fakes.opened.append(llm)
        return llm

    monkeypatch.setattr(_engine, "open_llm", open_llm)
    return fakes


@pytest.fixture
def run() -> Callable[..., Result]:
    """Runs `quire` in this process with the exit codes and messages of the entry point."""

    @click.command(
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False
    )
    @click.pass_context
    def frame(ctx: click.Context) -> None:
        sys.exit(main(ctx.args))

    def invoke(*arguments: str, input: str | bytes | None = None) -> Result:  # noqa: A002 - click's name
        # "--" first: the wrapper must pass every argument on, this one's own "--" included.
        return CliRunner().invoke(frame, ["--", *arguments], input=input)

    return invoke
