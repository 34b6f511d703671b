"""The speculator contract as a test suite. Subclass it and give it your speculator:

    class TestMySpeculator(SpeculatorSuite):
        @pytest.fixture
        def speculator_class(self) -> type[Speculator]:
            return MySpeculator

What is proposed is anybody's guess; what is tested is that it depends on a slot's context and count alone,
and that its bounds are kept.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import BaseModel

from quire.contracts import Speculator, SpeculatorInit, SpeculatorNeed

__all__ = ["MAX_LEN", "SLOTS", "VOCAB", "SpeculatorSuite", "repeating_text"]

SLOTS, VOCAB, MAX_LEN, AHEAD = 6, 50, 200, 5
Make = Callable[[], Speculator]


def repeating_text(length: int, seed: int) -> list[int]:
    """Random tokens that repeat pieces of themselves, so that much of them can be foretold."""
    choose = random.Random(seed)
    text = [choose.randrange(VOCAB) for _ in range(8)]
    while len(text) < length:
        if choose.random() < 0.6:
            start = choose.randrange(len(text))
            text += text[start : start + choose.randrange(1, 20)]
        else:
            text += [choose.randrange(VOCAB) for _ in range(choose.randrange(1, 4))]
    return text[:length]


class SpeculatorSuite:
    """What every speculator must hold. Override `speculator_class`, and `options` or `model` if need be."""

    @pytest.fixture
    def speculator_class(self) -> type[Speculator]:
        """The class under test."""
        raise NotImplementedError("Override the fixture `speculator_class`.")

    @pytest.fixture
    def options(self) -> BaseModel | None:
        """Its options; None for the defaults."""
        return None

    @pytest.fixture
    def model(self) -> str | None:
        """The draft model, for a speculator that takes one."""
        return None

    @pytest.fixture
    def make(self, speculator_class: type[Speculator], options: BaseModel | None, model: str | None) -> Make:
        """Makes speculators that have seen nobody."""
        need = SpeculatorNeed(
            device="cpu", dtype="float32", vocab_size=VOCAB, num_speculative_tokens=AHEAD, model=model
        )
        init = SpeculatorInit(
            need=need, device="cpu", max_num_seqs=SLOTS, max_model_len=MAX_LEN, options=options
        )
        assert speculator_class.reject(need) is None
        return lambda: speculator_class(init)

    def test_bounds_are_kept(self, make: Make) -> None:
        speculator, texts = make(), [repeating_text(MAX_LEN, seed) for seed in range(SLOTS)]
        for length in (1, 2, 3, 7, 30, MAX_LEN):
            counts = [1 + (slot + length) % AHEAD for slot in range(SLOTS)]
            found = ask(speculator, dict(enumerate(texts)), length, counts)
            assert len(found) == SLOTS
            for ids, count in zip(found, counts, strict=True):
                assert len(ids) <= count
                assert all(type(token) is int and 0 <= token < VOCAB for token in ids)

    def test_nobody_is_nobody(self, make: Make) -> None:
        assert make().propose([], [], []) == []

    @pytest.mark.parametrize("seed", range(4))
    def test_it_depends_on_the_context_alone(self, make: Make, seed: int) -> None:
        """Whoever was asked before, how often, for how many, beside whom and in which order."""
        choose = random.Random(seed)
        texts = {slot: repeating_text(MAX_LEN, seed + slot) for slot in range(SLOTS)}
        speculator, length = make(), 0
        while (length := length + choose.choice([1, 1, 1, 2, 5, 40])) <= MAX_LEN:
            some = choose.sample(range(SLOTS), choose.randrange(1, SLOTS + 1))
            counts = [choose.randrange(1, AHEAD + 1) for _ in some]
            found = ask(speculator, {slot: texts[slot] for slot in some}, length, counts)
            for slot, count, ids in zip(some, counts, found, strict=True):
                assert [ids] == ask(make(), {0: texts[slot]}, length, [count])

    def test_a_slot_is_free_once_it_is_removed(self, make: Make) -> None:
        speculator = make()
        for seed in range(4):
            text = repeating_text(60, seed)
            for length in (60 - 7 * seed, 60):
                assert ask(speculator, {1: text}, length, [AHEAD]) == ask(make(), {1: text}, length, [AHEAD])
            speculator.remove(1)

    def test_who_was_never_asked_can_be_removed(self, make: Make) -> None:
        speculator = make()
        speculator.remove(2)
        ask(speculator, {1: repeating_text(20, 0)}, 20, [1])
        speculator.remove(1)
        speculator.remove(1)

    def test_contexts_are_read_in_the_call_and_never_written(self, make: Make) -> None:
        speculator, text = make(), np.array(repeating_text(90, 3), dtype=np.int32)
        row = text.copy()
        row.flags.writeable = False
        speculator.propose([0], [AHEAD], [row[:50]])
        elsewhere = text.copy()  # as if the worker's table had moved: only this call's view is good
        found = speculator.propose([0], [AHEAD], [elsewhere[:90]])
        assert found == make().propose([0], [AHEAD], [text])
        assert elsewhere.tolist() == text.tolist()


def ask(
    speculator: Speculator, texts: dict[int, list[int]], length: int, counts: Sequence[int]
) -> list[list[int]]:
    """What is proposed to follow the first `length` tokens of each slot's text, the slots in their order."""
    contexts: list[NDArray[np.int32]] = [np.array(text[:length], dtype=np.int32) for text in texts.values()]
    return speculator.propose(list(texts), counts, contexts)
