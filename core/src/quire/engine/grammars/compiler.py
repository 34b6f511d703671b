"""Compiles what requests say about the form of their output, at the front end's side.

Off the caller's thread, in a process that is stopped when a source takes too long or too much memory. What
was compiled is kept, within bounds; equal sources are compiled once, also while they are. What was refused is
remembered too, so that sending it again costs nothing.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import msgspec

from quire._confined import ConfinedProcess, DiedError, OverdueError
from quire.contracts.grammar import GrammarNeed, GrammarSource, Vocabulary
from quire.engine.grammars.worker import Answer, Start
from quire.engine.info import GrammarLimits
from quire.errors import EngineError, InvalidRequestError, OverloadedError
from quire.plugin_plan import PlannedPlugin
from quire.request import CompiledGrammar

__all__ = ["CompileStats", "GrammarCompiler"]

_COMMAND = [sys.executable, "-P", "-m", "quire.engine.grammars.worker"]
_START_SECONDS = 120.0  # its libraries may be large, and the machine busy
_REFUSED_BYTES = 1 << 10  # what a remembered refusal counts in the cache


@dataclass(slots=True)
class CompileStats:
    """What compiling came to, since the start.

    Attributes:
        compiled, refused, cached: sources that were compiled, were refused, or had been compiled before.
        seconds: time that compiling took.
    """

    compiled: int = 0
    refused: int = 0
    cached: int = 0
    seconds: float = 0.0


class GrammarCompiler:
    """The front end's compiler: a cache, a thread, and a process per backend, started when first needed."""

    def __init__(
        self,
        plugins: Sequence[PlannedPlugin],
        need: GrammarNeed,
        make_vocabulary: Callable[[], Vocabulary],
        limits: GrammarLimits,
    ) -> None:
        """Nothing is started yet.

        Args:
            plugins: backends, in the order they are tried: the next one gets what the one before refuses.
            need: what they were chosen for.
            make_vocabulary: makes the model's; called once, in the compiler's thread.
            limits: what compiling may take.
        """
        self.limits = limits
        self.stats = CompileStats()
        self._plugins, self._need, self._make_vocabulary = list(plugins), need, make_vocabulary
        self._backends: list[tuple[str, ConfinedProcess]] = []  # made by the thread
        self._lock = threading.Lock()
        self._under_way: dict[GrammarSource, Future[CompiledGrammar]] = {}
        self._cache: OrderedDict[GrammarSource, CompiledGrammar | InvalidRequestError] = OrderedDict()
        self._cached_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="quire-grammars")
        # Runs at the interpreter's end, too.
        self._end = weakref.finalize(self, _close, self._thread, self._backends)

    def submit(self, source: GrammarSource) -> Future[CompiledGrammar]:
        """Have a source compiled; the future gives the artefact or raises what stands in the way.

        Raises:
            InvalidRequestError: it is too large, was refused before, or there is no backend.
            OverloadedError: too many sources wait.
        """
        if not self._plugins:
            raise InvalidRequestError(
                "Structured output needs a grammar plugin, and none is installed: install "
                "quire-grammar-xgrammar or quire-grammar-llguidance.",
                field="structured_outputs",
            )
        size = len(source.text.encode())
        if size > self.limits.source_bytes:
            raise InvalidRequestError(
                f"The {source.form} has {size} bytes, and at most {self.limits.source_bytes} are compiled: "
                "make it shorter.",
                field=source.form,
            )
        with self._lock:
            known = self._cache.get(source)
            if known is not None:
                self._cache.move_to_end(source)
                self.stats.cached += 1
                if isinstance(known, InvalidRequestError):
                    raise InvalidRequestError(str(known), field=known.field)
                done: Future[CompiledGrammar] = Future()
                done.set_result(known)
                return done
            under_way = self._under_way.get(source)
            if under_way is None:
                if len(self._under_way) >= self.limits.waiting:
                    raise OverloadedError(
                        f"{len(self._under_way)} grammars wait to be compiled already. Try again later."
                    )
                under_way = self._thread.submit(self._compile, source)
                self._under_way[source] = under_way
            return under_way

    def compile(self, source: GrammarSource) -> CompiledGrammar:
        """The same, waiting for it."""
        return self.submit(source).result()

    def close(self) -> None:
        """End the processes; what waits is cancelled."""
        self._end()

    def cached(self) -> tuple[int, int]:
        """Entries and bytes that the cache holds."""
        with self._lock:
            return len(self._cache), self._cached_bytes

    def _compile(self, source: GrammarSource) -> CompiledGrammar:
        start = time.perf_counter()
        outcome: CompiledGrammar | InvalidRequestError | None = None
        try:
            outcome = self._by_any(source)
        finally:
            with self._lock:
                self._under_way.pop(source, None)
                self.stats.seconds += time.perf_counter() - start
                if outcome is not None:
                    self._keep(source, outcome)
        if isinstance(outcome, InvalidRequestError):
            raise outcome
        return outcome

    def _by_any(self, source: GrammarSource) -> CompiledGrammar | InvalidRequestError:
        """By the first backend that does it; else why not."""
        try:
            self._make_backends()
        except InvalidRequestError as error:
            return error
        refusals: list[InvalidRequestError] = []
        for name, process in self._backends:
            outcome = self._by(name, process, source)
            if isinstance(outcome, CompiledGrammar):
                return outcome
            refusals.append(outcome)
            if outcome.field == _LIMIT:  # others would take as long: it has had its time
                break
        told = refusals[0]
        if told.field == _LIMIT:
            told.field = source.form
        elif len(refusals) > 1:
            said = dict.fromkeys(str(one).rstrip(".") for one in refusals)  # often they say the same
            told = InvalidRequestError(". ".join(said) + ".", field=told.field)
        return told

    def _make_backends(self) -> None:
        if self._backends:
            return
        vocabulary, limits = self._make_vocabulary(), self.limits
        for plugin in self._plugins:
            start = Start(plugin, self._need, vocabulary, limits.seconds, limits.memory_bytes)
            self._backends.append((plugin.name, _process(start)))

    def _by(
        self, name: str, process: ConfinedProcess, source: GrammarSource
    ) -> CompiledGrammar | InvalidRequestError:
        limits, what = self.limits, f"The {source.form}"
        try:
            data = process.ask(msgspec.msgpack.encode(source), limits.seconds)
        except OverdueError:
            return InvalidRequestError(
                f"{what} took longer than {limits.seconds:g} seconds to compile: make it simpler.",
                field=_LIMIT,
            )
        except DiedError:
            return InvalidRequestError(
                f"{what} ended its compiler, most likely for want of memory: make it simpler.", field=_LIMIT
            )
        answer = msgspec.msgpack.decode(data, type=Answer)
        if answer.kind == "memory":
            return InvalidRequestError(f"{what} cannot be compiled: {answer.error}.", field=_LIMIT)
        if answer.error is not None:
            reason = (
                answer.error if answer.kind is None else f"{name} failed ({answer.kind}: {answer.error})."
            )
            return InvalidRequestError(reason, field=answer.field or source.form)
        if len(answer.artefact) > limits.artefact_bytes:
            return InvalidRequestError(
                f"{what} compiles to {len(answer.artefact)} bytes, more than {limits.artefact_bytes}: "
                "make it simpler.",
                field=_LIMIT,
            )
        return CompiledGrammar(name, answer.artefact)

    def _keep(self, source: GrammarSource, outcome: CompiledGrammar | InvalidRequestError) -> None:
        """Remember an outcome, and forget the oldest beyond the bounds."""
        if isinstance(outcome, CompiledGrammar):
            self.stats.compiled += 1
        else:
            self.stats.refused += 1
        self._cache[source] = outcome
        self._cached_bytes += _size(source, outcome)
        while len(self._cache) > self.limits.cache_entries or self._cached_bytes > self.limits.cache_bytes:
            self._cached_bytes -= _size(*self._cache.popitem(last=False))


_LIMIT = "\0limit"
"""Marks a refusal for what compiling took, until it is told."""


def _size(source: GrammarSource, outcome: CompiledGrammar | InvalidRequestError) -> int:
    own = len(outcome.data) if isinstance(outcome, CompiledGrammar) else _REFUSED_BYTES
    return own + 4 * len(source.text)


def _process(start: Start) -> ConfinedProcess:
    def greeted(data: bytes) -> None:
        said = msgspec.msgpack.decode(data, type=Answer)
        if said.error is not None:
            raise EngineError(f"The grammar backend {start.plugin.name!r} does not start: {said.error}")

    return ConfinedProcess(
        _COMMAND,
        greeting=msgspec.msgpack.encode(start),
        greeted=greeted,
        start_seconds=_START_SECONDS,
    )


def _close(thread: ThreadPoolExecutor, backends: Sequence[tuple[str, ConfinedProcess]]) -> None:
    thread.shutdown(wait=False, cancel_futures=True)
    for _, process in backends:
        process.kill()
