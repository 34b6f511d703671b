"""One token after another, each for those who are still to get one, over a model that can be read by eye."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import quire_speculator_draft
from quire.contracts import KINDS, DraftModel, Speculator, SpeculatorInit, SpeculatorNeed
from quire.testing.speculator import MAX_LEN, SLOTS, VOCAB, SpeculatorSuite
from quire_speculator_draft.speculator import DraftSpeculator

Contexts = Sequence[NDArray[np.int32]]


def following(context: Sequence[int]) -> int:
    """What the model below takes for granted."""
    return (3 * sum(context) + 5 * context[-1] + len(context)) % VOCAB


class Arithmetic(DraftModel):
    """Sure of each next token. Knows the contexts that `told` holds."""

    def __init__(self, max_len: int = MAX_LEN) -> None:
        self.max_len = max_len
        self.told: dict[int, list[int]] = {}
        self._rows: list[list[int]] = []
        self.widths: list[int] = []

    def begin(self, slots: Sequence[int]) -> torch.Tensor:
        self._rows = [self.told[slot] for slot in slots]
        return self._logits()

    def extend(self, ids: torch.Tensor) -> torch.Tensor:
        self._rows = [[*row, token] for row, token in zip(self._rows, ids.tolist(), strict=False)]
        return self._logits()

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(-1)

    def _logits(self) -> torch.Tensor:
        self.widths.append(len(self._rows))
        assert all(len(row) < self.max_len for row in self._rows)
        return torch.nn.functional.one_hot(
            torch.tensor([following(row) for row in self._rows]), VOCAB
        ).float()


class Told(DraftSpeculator):
    """Passes contexts on to the model, as a worker's slots do."""

    def __init__(self, model: Arithmetic) -> None:
        need = SpeculatorNeed(
            device="cpu", dtype="float32", vocab_size=VOCAB, num_speculative_tokens=5, model="small"
        )
        super().__init__(
            SpeculatorInit(
                need=need, device="cpu", max_num_seqs=SLOTS, max_model_len=MAX_LEN, draft_model=model
            )
        )
        self.arithmetic = model

    def propose(self, slots: Sequence[int], counts: Sequence[int], contexts: Contexts) -> list[list[int]]:
        self.arithmetic.told = dict(zip(slots, (one.tolist() for one in contexts), strict=True))
        return super().propose(slots, counts, contexts)


class TestDraft(SpeculatorSuite):
    @pytest.fixture
    def make(self) -> Callable[[], Speculator]:
        return lambda: Told(Arithmetic())


def context(*tokens: int) -> NDArray[np.int32]:
    return np.array(tokens, dtype=np.int32)


def test_each_gets_as_many_as_it_was_asked_for() -> None:
    speculator = Told(Arithmetic())
    found = speculator.propose([4, 0, 2], [1, 3, 2], [context(1, 2), context(7), context(9, 9, 9)])
    assert [len(ids) for ids in found] == [1, 3, 2]
    row = [7]
    for token in found[1]:
        assert token == following(row)
        row.append(token)
    assert speculator.arithmetic.widths == [3, 2, 1]  # who has enough is computed for no more


def test_what_the_model_cannot_follow_gets_less_or_nothing() -> None:
    speculator = Told(Arithmetic(max_len=4))
    found = speculator.propose([0, 1, 2], [3, 3, 3], [context(1), context(1, 2, 3), context(1, 2, 3, 4)])
    assert [len(ids) for ids in found] == [3, 1, 0]
    assert speculator.propose([2], [3], [context(1, 2, 3, 4, 5)]) == [[]]


def test_the_hook_describes_it() -> None:
    (spec,) = quire_speculator_draft.quire_speculators()
    assert (spec.name, spec.api, spec.takes_model) == ("draft", KINDS["speculator"].api, True)
    assert spec.target == f"{DraftSpeculator.__module__}:{DraftSpeculator.__name__}"


def test_the_hook_module_is_light() -> None:
    code = "import sys, quire_speculator_draft; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
