"""The engine as the commands use it: a protocol, and the one place that opens one.

Tests put a fake in the place of `open_llm`. Nothing heavy is imported before it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click

from quire.config import EngineConfig
from quire.errors import ConfigError, RequestFailedError
from quire.outputs import RequestOutput
from quire.sampling_params import SamplingParams

__all__ = ["Engine", "Message", "engine", "is_terminal", "open_llm", "require_success"]

Message = dict[str, str]


class StartupReport(Protocol):
    """What starting took."""

    def lines(self) -> list[str]: ...


class Engine(Protocol):
    """The part of `quire.LLM` that commands rely on."""

    @property
    def startup_report(self) -> StartupReport: ...

    def generate(
        self, prompts: Any, sampling_params: Any = None, *, use_tqdm: bool = True
    ) -> list[RequestOutput]: ...

    def stream(
        self, prompt: Any, sampling_params: SamplingParams | None = None
    ) -> Iterator[RequestOutput]: ...

    def stream_chat(
        self, messages: Sequence[Any], sampling_params: SamplingParams | None = None
    ) -> Iterator[RequestOutput]: ...

    def get_default_sampling_params(self) -> SamplingParams: ...

    def get_tokenizer(self) -> Any: ...

    def shutdown(self) -> None: ...


def open_llm(config: EngineConfig) -> Engine:
    """Start an engine in this process.

    Raises:
        QuireError: the model cannot be found, loaded or fitted into memory.
    """
    from quire import LLM

    llm: Engine = LLM(config=config, show_progress=is_terminal())
    return llm


@contextmanager
def engine(config: EngineConfig, *, quiet: bool = False) -> Iterator[Engine]:
    """An engine that is shut down whatever happens; its start-up report goes to stderr.

    Raises:
        ConfigError: no model is named.
        QuireError: as `open_llm`.
    """
    if not config.model:
        raise ConfigError("model: name one, as an argument or in the configuration")
    llm = open_llm(config)
    try:
        if not quiet:
            for line in llm.startup_report.lines():
                click.echo(line, err=True)
        yield llm
    finally:
        llm.shutdown()


def require_success(output: RequestOutput) -> None:
    """Turns a request that failed inside the engine into the command's failure.

    Raises:
        RequestFailedError: with the engine's reason.
    """
    failed = any(completion.finish_reason == "error" for completion in output.outputs)
    if output.error is not None or failed:
        raise RequestFailedError(
            output.error or "the request failed inside the engine", request_id=output.request_id
        )


def is_terminal() -> bool:
    """Whether somebody watches: progress bars are drawn for them alone."""
    return sys.stderr.isatty()
