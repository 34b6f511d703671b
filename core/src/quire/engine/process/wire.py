"""What an engine process and its clients say to each other: msgpack with a schema.

A client sends one `Add`, `Abort` or `Call` per message; the engine answers with `News`, which
carries all that a step brought this client. Data only: no message makes the other side import or run
anything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from quire.engine.info import EngineInfo, EngineStats
from quire.request import EngineRequest, StepOutput

T = TypeVar("T")


class Hello(msgspec.Struct, tag=True, frozen=True):
    """A client has connected; it gets the engine's facts, and statistics from then on."""


class Add(msgspec.Struct, tag=True, frozen=True):
    """Queue a request; answered by `News.accepted` or `News.refused`."""

    request: EngineRequest


class Abort(msgspec.Struct, tag=True, frozen=True):
    """End a request, or one of its completions; its last outputs follow."""

    request_id: str
    index: int | None = None


class Call(msgspec.Struct, tag=True, frozen=True):
    """Do something that has no result but that it is done: answered by `News.done`."""

    call_id: int
    name: Literal["reset_prefix_cache", "report"]


FromClient = Hello | Add | Abort | Call


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """Why a request was not taken.

    Attributes:
        request_id: the `EngineRequest`'s.
        error: name of a class of `quire.errors`.
        message: its text.
        field: the offending field of an `InvalidRequestError`.
    """

    request_id: str
    error: str
    message: str
    field: str | None = None


class News(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the engine tells one client.

    Attributes:
        info: the engine's facts, in answer to `Hello`.
        accepted, refused: answers to `Add`.
        outputs: of this client's requests.
        done: `Call`s that were carried out.
        stats: figures of this moment; at least once a second.
        failure: the engine has failed for good; the text says why.
    """

    info: EngineInfo | None = None
    accepted: list[str] = []
    refused: list[Refusal] = []
    outputs: list[StepOutput] = []
    done: list[int] = []
    stats: EngineStats | None = None
    failure: str | None = None


class Launch(msgspec.Struct, frozen=True):
    """What an engine process is told on its standard input, which then stays open as its lifeline.

    Attributes:
        config: the `EngineConfig` as plain data.
        endpoint: ZMQ endpoint to bind.
        max_queue: most sequences that may wait; None for any number.
        show_progress: draw progress bars on stderr.
    """

    config: dict[str, Any]
    endpoint: str
    max_queue: int | None
    show_progress: bool


class Report(msgspec.Struct, frozen=True):
    """What an engine process writes to its report pipe: once it is up, and again if it fails.

    Attributes:
        info: it serves.
        error, message: class of `quire.errors` and text of what ended it.
    """

    info: EngineInfo | None = None
    error: str | None = None
    message: str = ""


def encode(message: Any) -> bytes:
    """A message as msgpack."""
    return msgspec.msgpack.encode(message, enc_hook=_plain)


def decoder(kind: type[T] | Any) -> Callable[[bytes], T]:
    """A function that reads messages of a kind; it raises `msgspec.DecodeError` for anything else."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_path).decode


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} does not travel")


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} does not travel")
