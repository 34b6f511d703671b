"""What the sampler keeps of each seated request.

Numbers that shape a distribution lie in arrays indexed by slot, so that a step gathers them at
once; what only few requests have (bias, forbidden words, a history) hangs on the slot as a
`Rare`. Knows no logits and no steps; host only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from quire.errors import InvalidRequestError
from quire.sampling_params import SamplingParams

Ids = NDArray[np.int64]

# Within fp32 even when multiplied by, or divided into, a logit of 0 or -inf: neither gives NaN.
_LEAST, _MOST = 1e-30, 1e30


class Trait:
    """What processing a slot needs, as bits; the union over a step's rows says which processors run.

    Plain integers: an `IntFlag` makes an object of every union it takes part in, several in every step.
    """

    GREEDY = 1
    TEMPERATURE = 2
    MIN_P = 4
    TOP = 8
    ALLOWED = 16
    BAD_WORDS = 32
    MIN_TOKENS = 64
    BIAS = 128
    PENALTIES = 256

    REMOVES = ALLOWED | BAD_WORDS | MIN_TOKENS
    """Processors that can hide a NaN of the incoming logits."""
    SPARSE = REMOVES | BIAS | PENALTIES
    CUTS = MIN_P | TOP
    """Processors that compare a row's tokens with one another."""
    RECORDS = BAD_WORDS | PENALTIES
    """Processors that read the tokens emitted so far."""


class History:
    """The distinct tokens a request has seen, with their occurrences in its output.

    Memory follows the tokens seen, not the vocabulary: 256 slots of dense counts over 256k
    tokens would take 256 MiB, and each step a pass over them.
    """

    def __init__(self, prompt_ids: Sequence[int]) -> None:
        """Start with a prompt's tokens, which count as seen but not as output."""
        distinct = np.unique(np.asarray(prompt_ids, dtype=np.int64))
        self._size = len(distinct)
        self._ids = np.empty(max(64, 2 * self._size), dtype=np.int64)
        self._ids[: self._size] = distinct
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._place = {token: i for i, token in enumerate(distinct.tolist())}

    def append(self, ids: Iterable[int]) -> None:
        """Record output tokens."""
        for token in ids:
            place = self._place.setdefault(token, self._size)
            if place == self._size:
                if place == len(self._ids):
                    self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                    self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
                self._ids[place] = token
                self._size += 1
            self._counts[place] += 1

    def entries(self, drafts: Sequence[int] = ()) -> tuple[Ids, NDArray[np.float32]]:
        """Distinct ids `[E]` and output counts `[E]`, as if `drafts` had been emitted too."""
        ids, counts = self._ids[: self._size], self._counts[: self._size]
        if not drafts:
            return ids, counts
        counts = counts.copy()
        fresh: dict[int, int] = {}
        for token in drafts:
            place = self._place.get(token)
            if place is None:
                fresh[token] = fresh.get(token, 0) + 1
            else:
                counts[place] += 1
        new_ids = np.fromiter(fresh.keys(), dtype=np.int64, count=len(fresh))
        new_counts = np.fromiter(fresh.values(), dtype=np.float32, count=len(fresh))
        return np.concatenate((ids, new_ids)), np.concatenate((counts, new_counts))


@dataclass(slots=True)
class Rare:
    """What only some requests have.

    Attributes:
        allowed: the only ids that may be sampled, or None for all.
        bad_words: sequences whose last token is excluded when the output ends with the others.
        ending: end and stop tokens, excluded until there are `min_tokens`.
        bias_ids, bias: ids and what is added to their logits.
        history: tokens seen, kept only for penalties.
        outputs: tokens emitted, kept only for bad words.
    """

    allowed: Ids | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    ending: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    bias_ids: Ids = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    bias: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    history: History | None = None
    outputs: list[int] | None = None

    def record(self, ids: Sequence[int]) -> None:
        """Append emitted tokens to whatever is kept of them."""
        if self.history is not None:
            self.history.append(ids)
        if self.outputs is not None:
            self.outputs.extend(ids)

    def banned(self, drafts: Sequence[int]) -> Ids:
        """Ids that would complete a bad word after the output so far and `drafts`."""
        assert self.outputs is not None
        longest = max(len(word) for word in self.bad_words) - 1
        tail = (
            (self.outputs[max(0, len(self.outputs) - longest) :] + list(drafts))[-longest:] if longest else []
        )
        ends = {
            word[-1]
            for word in self.bad_words
            if len(word) == 1 or (len(word) - 1 <= len(tail) and tuple(tail[1 - len(word) :]) == word[:-1])
        }
        return np.fromiter(sorted(ends), dtype=np.int64, count=len(ends))


class SlotTable:
    """Per-slot state, indexed by slot. A slot's entries mean nothing while it is free.

    Attributes:
        demanding: the seated slots that ask for more than their rows' argmax.
        version: changes with the numbers.
    """

    def __init__(self, max_num_seqs: int, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._vocab_size = vocab_size
        # A checkpoint may name end tokens that its logits do not have: they are never sampled anyway.
        self._eos_token_ids = tuple(token for token in eos_token_ids if 0 <= token < vocab_size)
        self.demanding: set[int] = set()
        self.version = 0
        self.traits = np.zeros(max_num_seqs, dtype=np.int32)
        self.temperature = np.ones(max_num_seqs, dtype=np.float32)
        self.top_k = np.full(max_num_seqs, vocab_size, dtype=np.int64)
        self.top_p = np.ones(max_num_seqs, dtype=np.float64)
        self.min_p = np.zeros(max_num_seqs, dtype=np.float64)
        self.repetition = np.ones(max_num_seqs, dtype=np.float32)
        self.frequency = np.zeros(max_num_seqs, dtype=np.float32)
        self.presence = np.zeros(max_num_seqs, dtype=np.float32)
        self.seed = np.zeros(max_num_seqs, dtype=np.uint64)
        self.free_from = np.zeros(max_num_seqs, dtype=np.int64)  # first position that may hold an end token
        self.rare: list[Rare] = [Rare() for _ in range(max_num_seqs)]

    def add(
        self,
        slot: int,
        params: SamplingParams,
        seed: int,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
    ) -> None:
        """Seat a request, in place of whatever the slot held. All that can fail comes before any write.

        Raises:
            InvalidRequestError: a token id is outside the vocabulary.
            ValueError: the slot does not exist.
        """
        if not 0 <= slot < len(self.rare):
            raise ValueError(f"Slot {slot} is not in 0..{len(self.rare) - 1}.")
        params.check_vocabulary(self._vocab_size)
        rare = self._rare(params, prompt_ids, output_ids)
        traits = _traits(params, rare, self._vocab_size)
        shaped = not traits & Trait.GREEDY  # a greedy row's shape is of no consequence

        self.version += 1
        self.rare[slot] = rare
        self.traits[slot] = traits
        if traits == Trait.GREEDY:
            self.demanding.discard(slot)
        else:
            self.demanding.add(slot)
        self.temperature[slot] = min(params.temperature, _MOST) if shaped else 1.0
        self.top_k[slot] = (
            params.top_k if shaped and 0 < params.top_k < self._vocab_size else self._vocab_size
        )
        self.top_p[slot] = params.top_p if shaped else 1.0
        self.min_p[slot] = params.min_p if shaped else 0.0
        self.repetition[slot] = min(max(params.repetition_penalty, _LEAST), _MOST)
        self.frequency[slot] = params.frequency_penalty
        self.presence[slot] = params.presence_penalty
        self.seed[slot] = seed % (1 << 64)
        self.free_from[slot] = len(prompt_ids) + params.min_tokens

    def remove(self, slot: int) -> None:
        """Free a slot; its history goes with it."""
        self.traits[slot] = 0
        self.demanding.discard(slot)
        self.rare[slot] = Rare()

    def _rare(self, params: SamplingParams, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> Rare:
        rare = Rare()
        if params.allowed_token_ids is not None:
            rare.allowed = np.unique(np.asarray(params.allowed_token_ids, dtype=np.int64))
        rare.bad_words = tuple(tuple(word) for word in params.bad_words_token_ids if word)
        if params.min_tokens:
            ending = {*(params.stop_token_ids or ()), *(() if params.ignore_eos else self._eos_token_ids)}
            rare.ending = np.asarray(sorted(ending), dtype=np.int64)
        if params.logit_bias:
            rare.bias_ids = np.asarray(list(params.logit_bias), dtype=np.int64)
            rare.bias = np.asarray(list(params.logit_bias.values()), dtype=np.float32)
        if params.repetition_penalty != 1 or params.frequency_penalty or params.presence_penalty:
            for name, ids in (("prompt", prompt_ids), ("output", output_ids)):
                if ids and not 0 <= min(ids) <= max(ids) < self._vocab_size:
                    raise InvalidRequestError(
                        f"The {name} holds a token id outside 0..{self._vocab_size - 1}: it has no penalty.",
                        field=f"{name}_ids",
                    )
            rare.history = History(prompt_ids if params.repetition_penalty != 1 else ())
        if rare.bad_words:
            rare.outputs = []
        rare.record(output_ids)
        return rare


def _traits(params: SamplingParams, rare: Rare, vocab_size: int) -> int:
    """Which processors a request needs."""
    traits = 0
    if params.greedy:
        traits |= Trait.GREEDY
    else:
        traits |= Trait.TEMPERATURE if params.temperature != 1 else 0
        traits |= Trait.MIN_P if params.min_p > 0 else 0
        traits |= Trait.TOP if params.top_p < 1 or 0 < params.top_k < vocab_size else 0
    traits |= Trait.ALLOWED if rare.allowed is not None else 0
    traits |= Trait.BAD_WORDS if rare.bad_words else 0
    traits |= Trait.MIN_TOKENS if len(rare.ending) else 0
    traits |= Trait.BIAS if len(rare.bias_ids) else 0
    traits |= Trait.PENALTIES if rare.history is not None else 0
    return traits
