"""Follows the outputs of requests that have a grammar, and says which tokens are legal next.

Knows completions by request and index, the slots that plans seat them in, and masks on the host; knows no
scheduler, no device and no text. An output that its grammar cannot follow gets a mask without a legal token,
which fails its request and nobody else's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quire.contracts.grammar import Grammar, Matcher
from quire.engine.grammars.legal_tokens import accept_all, only_ids, pack_ids
from quire.engine.grammars.templates import Templates
from quire.engine.info import GrammarStats
from quire.plan import StepPlan, TokenMasks
from quire.request import EngineRequest, StepOutput
from quire.sampling_params import SamplingParams

__all__ = ["GrammarRunner"]

logger = logging.getLogger(__name__)

_MOST_FORCED = 64
"""Tokens that one step may append: what follows them has to be computed in one go."""

Key = tuple[str, int]


@dataclass(slots=True)
class _Request:
    """A live request with a grammar.

    Attributes:
        backend: of its grammar.
        template: an output that has not begun.
        left: completions that have not ended.
        jumps: whether forced tokens may be appended: those that are not sampled have no log probabilities,
            and nobody sees that the request excludes them.
    """

    backend: str
    template: Future[Matcher]
    left: int
    jumps: bool


@dataclass(slots=True, eq=False)
class _Output:
    """A completion on its way. Compared by identity.

    Attributes:
        key: request and index.
        backend: of its grammar.
        jumps: of its request.
        matcher: None if it cannot be followed.
        row: where its mask lies.
        filled: whether that is the mask of what comes next.
        ahead: tokens that the matcher has accepted, and the completion is offered (see `forced`).
        after: the mask of what comes after those.
    """

    key: Key
    backend: str
    jumps: bool
    matcher: Matcher | None
    row: int
    filled: bool = False
    ahead: list[int] = field(default_factory=list)
    after: NDArray[np.int32] | None = None


class GrammarRunner:
    """A matcher per live completion, and a row of a bitmask for each."""

    def __init__(
        self, load: Callable[[], Mapping[str, Grammar]], vocab_size: int, end_ids: Iterable[int], rows: int
    ) -> None:
        """Nothing is loaded before the first request with a grammar.

        Args:
            load: makes the backends, by name; called once, in a thread.
            vocab_size: width of the logits.
            end_ids: the model's end tokens.
            rows: completions that are seated at a time, at first; more are made room for.
        """
        self._load = load
        self._backends: Mapping[str, Grammar] | None = None
        self._requests: dict[str, _Request] = {}
        self._outputs: dict[Key, _Output] = {}
        self._seats: dict[int, Key] = {}
        self._width = (vocab_size + 31) // 32
        self._bits: NDArray[np.int32] = np.zeros((rows, self._width), dtype=np.int32)
        self._free = list(range(rows))
        self._end_ids = frozenset(end_ids)
        self._end_row = pack_ids(self._end_ids, self._width)
        self._scratch: NDArray[np.int32] = np.zeros((1, self._width), dtype=np.int32)
        self._offered: list[_Output] = []
        self._templates = Templates(self._loaded)
        self._seconds, self._num_masks = 0.0, 0

    def add(self, request: EngineRequest) -> None:
        """A request was queued; what it needs is loaded while it waits and computes its prompt."""
        if request.grammar is None:
            return
        params = request.params
        self._requests[request.request_id] = _Request(
            backend=request.grammar.backend,
            template=self._templates.of(request.grammar),
            left=max(params.n, params.best_of or 1),
            jumps=params.logprobs is None and not _excludes(params),
        )

    def seat(self, plan: StepPlan) -> None:
        """Follow who sits where."""
        if not self._requests and not self._seats:
            return
        for slot in plan.ended:
            self._seats.pop(slot, None)
        for start in plan.starts:
            if start.masked:
                self._seats[start.slot] = (start.request_id, start.index)

    def advance(self, outputs: Iterable[StepOutput]) -> list[Key]:
        """Take in the news of a step; returns the completions that have new tokens and have not ended.

        What `forced` has offered, and is not among the news, was not appended.
        """
        if not self._requests:
            return []
        start = time.perf_counter()
        moved: list[Key] = []
        requests, known = self._requests, self._outputs
        for output in outputs:
            request = requests.get(output.request_id)
            if request is None:
                continue
            key = (output.request_id, output.index)
            if output.finish_reason is not None:
                self._forget(key, request)
            elif output.token_ids:
                self._accept(known.get(key) or self._output(key), output.token_ids)
                moved.append(key)
        if self._offered:
            for mine in self._offered:
                self._take_back(mine)
            self._offered = []
        self._seconds += time.perf_counter() - start
        return moved

    def forced(self, keys: Iterable[Key]) -> list[tuple[Key, list[int]]]:
        """The tokens that each of some completions can only go on with, where there are any: to be appended.

        Args:
            keys: what `advance` returned. It is called again afterwards, with the news of what was appended.
        """
        start = time.perf_counter()
        known = self._outputs
        able = [output for key in keys if (output := known.get(key)) is not None and output.jumps]
        if able:
            self._fill(able)
            for place, token in only_ids(self._bits[[output.row for output in able]]):
                self._follow(able[place], token)
        self._seconds += time.perf_counter() - start
        return [(output.key, list(output.ahead)) for output in self._offered]

    def allows(self, key: Key, ids: list[int]) -> bool:
        """Whether a completion may go on with some tokens; one without a grammar may with any."""
        if key[0] not in self._requests:
            return True
        matcher, taken = self._output(key).matcher, 0
        if matcher is None:
            return True
        while taken < len(ids) and not matcher.is_terminated() and matcher.accept(ids[taken]):
            taken += 1
        matcher.rollback(taken)
        return taken == len(ids)

    def masks(self, plan: StepPlan) -> TokenMasks | None:
        """What the slots of a plan may sample; None if all of them may sample anything."""
        if not self._seats:
            return None
        start = time.perf_counter()
        seats, requests, known = self._seats, self._requests, self._outputs
        slots: list[int] = []
        outputs: list[_Output] = []
        for slot in plan.slots:
            key = seats.get(slot)
            if key is not None and key[0] in requests:
                slots.append(slot)
                outputs.append(known.get(key) or self._output(key))
        if not slots:
            return None
        self._fill(outputs)
        if plan.drafts:
            masks = self._with_drafts(slots, outputs, dict(plan.drafts))
        else:
            masks = TokenMasks(slots, [1] * len(slots), self._bits[[output.row for output in outputs]])
        self._num_masks += len(masks.bits)
        self._seconds += time.perf_counter() - start
        return masks

    def after(self, slots: Sequence[int], ids: Sequence[Sequence[int]]) -> TokenMasks | None:
        """What slots may sample after tokens that are not in yet, or are only guessed.

        Args:
            slots: of the last plan.
            ids: of each, what follows all that `advance` was told. Nothing of it stays.

        Returns:
            A row for each that has a grammar and may go on like this; None if there are none.
        """
        start = time.perf_counter()
        found: list[tuple[int, _Output, int]] = []
        for slot, tokens in zip(slots, ids, strict=True):
            key = self._seats.get(slot)
            if key is None or key[0] not in self._requests:
                continue
            output = self._output(key)
            if output.matcher is None:
                continue
            taken = accept_all(output.matcher, tokens, self._end_ids)
            if taken is not None:
                found.append((slot, output, taken))
        bits = np.empty((len(found), self._width), dtype=np.int32)
        for row, (_, output, count) in enumerate(found):
            assert output.matcher is not None
            self._write(output.backend, output.matcher, row, bits)
            output.matcher.rollback(count)
        self._num_masks += len(bits)
        self._seconds += time.perf_counter() - start
        return TokenMasks([slot for slot, _, _ in found], [1] * len(found), bits) if found else None

    def stats(self) -> GrammarStats:
        """Figures since the start."""
        return GrammarStats(self._seconds, self._num_masks)

    def shutdown(self) -> None:
        """Let go of the thread."""
        self._templates.shutdown()

    def _with_drafts(
        self, slots: list[int], outputs: list[_Output], drafts: dict[int, list[int]]
    ) -> TokenMasks:
        """A row more for every draft token: what may follow it."""
        counts = [1 + len(drafts.get(slot, ())) for slot in slots]
        bits = np.empty((sum(counts), self._width), dtype=np.int32)
        place = 0
        for slot, output, count in zip(slots, outputs, counts, strict=True):
            bits[place] = self._bits[output.row]
            taken = 0
            for row, token in enumerate(drafts.get(slot, ()), place + 1):
                more = None if output.matcher is None else accept_all(output.matcher, [token], self._end_ids)
                if output.matcher is None or more is None:
                    bits[row : place + count] = -1  # it is refused before: what stands here is not asked
                    break
                taken += more
                self._write(output.backend, output.matcher, row, bits)
            if output.matcher is not None:
                output.matcher.rollback(taken)
            place += count
        return TokenMasks(slots, counts, bits)

    def _write(self, backend: str, matcher: Matcher, row: int, bits: NDArray[np.int32]) -> None:
        if matcher.is_terminated():
            bits[row] = self._end_row
        else:
            self._loaded(backend).fill([matcher], [row], bits)

    def _accept(self, output: _Output, ids: list[int]) -> None:
        if output.ahead:
            if ids == output.ahead and output.after is not None:  # as offered: the matcher has them
                self._bits[output.row] = output.after
                output.ahead, output.after = [], None
                return
            self._take_back(output)
        output.filled = False
        matcher = output.matcher
        if matcher is None:
            return
        for token in ids:
            # After its end an output has no form: with `ignore_eos` it goes on with end tokens.
            if not matcher.accept(token) and not matcher.is_terminated():
                name = output.key[0]
                logger.error("Request %s: its grammar does not allow the token %d that it has", name, token)
                output.matcher = None
                return

    def _take_back(self, output: _Output) -> None:
        """Undo what was offered."""
        if output.ahead and output.matcher is not None:
            output.matcher.rollback(len(output.ahead))
            output.ahead, output.after = [], None

    def _follow(self, output: _Output, token: int) -> None:
        """Let a matcher go on with what is forced from here, the first of which is known: to be offered."""
        matcher, ids = output.matcher, output.ahead
        if matcher is None or matcher.is_terminated():
            return
        row = self._scratch
        while len(ids) < _MOST_FORCED and matcher.accept(token):
            ids.append(token)
            if matcher.is_terminated():
                row[0] = self._end_row
                break
            self._loaded(output.backend).fill([matcher], [0], row)
            only = only_ids(row)
            if not only:
                break
            token = only[0][1]
        if ids:
            output.after = row[0].copy()
            self._offered.append(output)

    def _fill(self, outputs: list[_Output]) -> None:
        """Have the rows of these hold what is legal next."""
        due: dict[str, tuple[list[Matcher], list[int]]] = {}
        for output in outputs:
            if output.filled:
                continue
            output.filled = True
            matcher = output.matcher
            if matcher is None:
                self._bits[output.row] = 0
            elif matcher.is_terminated():
                self._bits[output.row] = self._end_row
            else:
                of_backend = due.get(output.backend)
                if of_backend is None:
                    of_backend = due[output.backend] = ([], [])
                of_backend[0].append(matcher)
                of_backend[1].append(output.row)
        for backend, (matchers, rows) in due.items():
            self._loaded(backend).fill(matchers, rows, self._bits)

    def _output(self, key: Key) -> _Output:
        """A completion; made when it is first asked for."""
        output = self._outputs.get(key)
        if output is None:
            request = self._requests[key[0]]
            try:
                matcher = request.template.result().fork()
            # Whatever a plugin raises over an artefact fails the one request.
            except Exception:
                logger.exception("Request %s: its grammar cannot be followed", key[0])
                matcher = None
            row = self._take_row()
            output = self._outputs[key] = _Output(key, request.backend, request.jumps, matcher, row)
        return output

    def _take_row(self) -> int:
        if not self._free:
            size = len(self._bits)
            self._bits = np.concatenate([self._bits, np.zeros_like(self._bits)])
            self._free = list(range(size, 2 * size))
        return self._free.pop()

    def _forget(self, key: Key, request: _Request) -> None:
        output = self._outputs.pop(key, None)
        if output is not None:
            self._free.append(output.row)
        request.left -= 1
        if not request.left:
            del self._requests[key[0]]

    def _loaded(self, backend: str) -> Grammar:
        if self._backends is None:
            self._backends = self._load()
        return self._backends[backend]


def _excludes(params: SamplingParams) -> bool:
    """Whether a request may exclude tokens for good: by itself, or by what it tells logits processors."""
    return bool(params.bad_words or params.extra_args) or params.allowed_token_ids is not None
