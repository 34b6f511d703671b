"""The process that compiles grammars. What it is told is plain data, and so are its answers.

What strangers send may take for ever or fill memory; this process is stopped then, and another one started.
It speaks in frames (see `quire._confined`): first `Start`, then a `GrammarSource` per question.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from typing import Any, BinaryIO

import msgspec
import psutil

from quire.contracts.grammar import Grammar, GrammarInit, GrammarNeed, GrammarSource, Vocabulary
from quire.errors import InvalidRequestError
from quire.plugin_plan import PlannedPlugin
from quire.text._template_worker import limit


class Start(msgspec.Struct, frozen=True):
    """What the process is for.

    Attributes:
        plugin: the grammar backend.
        need, vocabulary: what it is made for.
        seconds: CPU time of one question, should the one that asks not be there to stop it.
        memory: bytes that compiling may take above what the process has when it begins.
    """

    plugin: PlannedPlugin
    need: GrammarNeed
    vocabulary: Vocabulary
    seconds: float
    memory: int


class Answer(msgspec.Struct, frozen=True):
    """An artefact, or why there is none.

    Attributes:
        artefact: of the source.
        error, field: of an `InvalidRequestError`.
        kind: what else it was: "memory", or the name of an exception.
    """

    artefact: bytes = b""
    error: str | None = None
    field: str | None = None
    kind: str | None = None


def load_grammar(plugin: PlannedPlugin, need: GrammarNeed, vocabulary: Vocabulary) -> Grammar:
    """The backend that a plan names.

    Raises:
        PluginError: it cannot be loaded.
    """
    kind: type[Grammar] = plugin.load()
    return kind(GrammarInit(need=need, vocabulary=vocabulary, options=plugin.load_options()))


def answer(grammar: Grammar, source: GrammarSource, start: Start, base: int) -> Answer:
    """One source, whatever may come of it."""
    limit(start.seconds, base + start.memory)
    try:
        return Answer(artefact=grammar.compile(source))
    except InvalidRequestError as error:
        return Answer(error=str(error), field=error.field)
    except MemoryError:
        return Answer(error=f"it needs more than {start.memory} bytes of memory", kind="memory")
    # A compiler may raise anything over what a stranger wrote.
    except Exception as error:
        return Answer(error=str(error)[:500], kind=type(error).__name__)


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer until the other side is gone."""
    start: Start = msgspec.msgpack.decode(_read(source), type=Start)
    try:
        grammar = load_grammar(start.plugin, start.need, start.vocabulary)
        grammar.compile(GrammarSource(form="choice", text='["a"]'))  # whatever it loads on first use
    except Exception as error:
        _write(sink, Answer(error=str(error), kind=type(error).__name__))
        return
    base = psutil.Process().memory_info().vms
    _write(sink, Answer())
    ask = msgspec.msgpack.Decoder(GrammarSource).decode
    while data := _read(source):
        _write(sink, answer(grammar, ask(data), start, base))


def _read(source: BinaryIO) -> bytes:
    head = source.read(4)
    return source.read(struct.unpack(">I", head)[0]) if len(head) == 4 else b""


def _write(sink: BinaryIO, message: Any) -> None:
    data = msgspec.msgpack.encode(message)
    sink.write(struct.pack(">I", len(data)) + data)
    sink.flush()


def main() -> None:
    """Serve the standard streams, which are for frames alone: what a library prints goes nowhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as sink:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
