"""The logits-processor contract as a test suite. Subclass it:

    class TestMine(LogitsProcessorSuite):
        @pytest.fixture
        def processor_class(self) -> type[LogitsProcessor]:
            return Mine

        @pytest.fixture
        def asked(self) -> list[Asked]:
            return [Asked({"strength": 2.0}), Asked(None)]

Give requests of all sorts, at least one of which it has something to do for. Where the edit is an exclusion
of tokens, override `expected` too, and every row is held to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from quire.contracts import (
    KernelsInit,
    KernelsNeed,
    LogitsProcessor,
    LogitsProcessorInit,
    LogitsProcessorNeed,
    SampleRows,
)
from quire.ops import Kernels
from quire.sampling_params import SamplingParams

__all__ = ["Asked", "LogitsProcessorSuite"]

VOCAB = 41


@dataclass(frozen=True)
class Asked:
    """A request as the suite seats it.

    Attributes:
        arguments: `SamplingParams.extra_args`.
        prompt: its tokens, below 41.
        params: further sampling parameters.
    """

    arguments: dict[str, Any] | None
    prompt: list[int] = field(default_factory=lambda: [3, 5, 5, 20, 3])
    params: dict[str, Any] = field(default_factory=dict)

    def sampling(self) -> SamplingParams:
        """Its parameters."""
        return SamplingParams(extra_args=self.arguments, max_tokens=30, **self.params)


class LogitsProcessorSuite:
    """What every logits processor must hold."""

    options: Any = None
    """The processor's options model, filled."""

    @pytest.fixture
    def processor_class(self) -> type[LogitsProcessor]:
        """The class under test."""
        raise NotImplementedError("Override the fixture `processor_class`.")

    @pytest.fixture
    def asked(self) -> list[Asked]:
        """Requests to seat."""
        raise NotImplementedError("Override the fixture `asked`.")

    @pytest.fixture
    def device(self) -> str:
        """Torch device string."""
        return "cpu"

    def expected(self, one: Asked, tokens: list[int]) -> set[int] | None:
        """Tokens excluded after `tokens` (prompt and output); None if that is not what the edit is."""
        return None

    @pytest.fixture
    def make(self, processor_class: type[LogitsProcessor], device: str) -> Any:
        """Makes processors of the class."""
        kind = torch.device(device).type
        kernels = Kernels(KernelsInit(need=KernelsNeed(device=kind, dtype="float32"), device=device))
        need = LogitsProcessorNeed(device=kind, dtype="float32", vocab_size=VOCAB)
        assert processor_class.reject(need) is None

        def made() -> LogitsProcessor:
            return processor_class(
                LogitsProcessorInit(
                    need=need, device=device, max_num_seqs=64, kernels=kernels, options=self.options
                )
            )

        return made

    def test_some_requests_concern_it(self, make: Any, asked: list[Asked]) -> None:
        processor = make()
        assert any(processor.add(slot, one.sampling(), one.prompt, []) for slot, one in enumerate(asked))

    def test_a_row_alone_is_bitwise_the_row_in_a_batch(
        self, make: Any, asked: list[Asked], device: str
    ) -> None:
        seated = _seat(make(), asked)
        logits = _logits(len(seated.mine), device)
        together = seated.edit(logits, seated.mine)
        for row, slot in enumerate(seated.mine):
            alone = seated.edit(logits[row : row + 1], [slot])
            assert torch.equal(alone[0], together[row])
        backwards = seated.edit(logits.flip(0), seated.mine[::-1])
        assert torch.equal(backwards.flip(0), together)

    def test_processing_changes_no_state(self, make: Any, asked: list[Asked], device: str) -> None:
        seated = _seat(make(), asked)
        logits = _logits(len(seated.mine), device)
        first = seated.edit(logits, seated.mine)
        assert torch.equal(seated.edit(logits, seated.mine), first)

    def test_an_edit_is_what_the_tokens_so_far_say(self, make: Any, asked: list[Asked], device: str) -> None:
        """However they came: step by step, at once after a preemption, in a slot that was another's."""
        seated = _seat(make(), asked)
        outputs: list[list[int]] = [[] for _ in asked]
        logits = _logits(len(seated.mine), device)
        for step in range(12):
            edited = seated.edit(logits, seated.mine, outputs)
            again = _seat(make(), asked, outputs, shift=17)
            assert torch.equal(again.edit(logits, again.mine, outputs), edited)
            for row, slot in enumerate(seated.mine):
                excluded = self.expected(asked[slot], asked[slot].prompt + outputs[slot])
                if excluded is not None:
                    wanted = logits[row].clone()
                    wanted[list(excluded)] = -torch.inf
                    assert torch.equal(edited[row], wanted)
            said = [(3, 5, 20, 5)[(step + slot) % 4] for slot in seated.mine]
            seated.processor.commit(seated.mine, said, [1] * len(said))
            for slot, token in zip(seated.mine, said, strict=True):
                outputs[slot].append(token)

    def test_drafts_count_as_said_for_the_rows_behind_them(
        self, make: Any, asked: list[Asked], device: str
    ) -> None:
        drafts = [5, 3, 5, 20]
        seated = _seat(make(), asked)
        logits = _logits(len(drafts) + 1, device)
        for slot in seated.mine:
            one = asked[slot]
            start, count = len(one.prompt), len(drafts) + 1
            rows = SampleRows([slot] * count, [start + i for i in range(count)], list(range(count)))
            chain = logits.clone()
            seated.processor.process(chain, rows, torch.tensor([0, *drafts]))
            for row in range(count):
                step = _seat(make(), [one], [drafts[:row]])
                alone = step.edit(logits[row : row + 1], step.mine, [drafts[:row]])
                assert torch.equal(chain[row], alone[0])

    def test_several_tokens_are_committed_as_one_by_one(
        self, make: Any, asked: list[Asked], device: str
    ) -> None:
        said = [5, 3, 5, 20, 3]
        at_once, one_by_one = _seat(make(), asked), _seat(make(), asked)
        slots = at_once.mine
        at_once.processor.commit(slots, said * len(slots), [len(said)] * len(slots))
        for token in said:
            one_by_one.processor.commit(slots, [token] * len(slots), [1] * len(slots))
        outputs = [list(said) for _ in asked]
        logits = _logits(len(slots), device)
        assert torch.equal(at_once.edit(logits, slots, outputs), one_by_one.edit(logits, slots, outputs))

    def test_a_slot_that_changes_hands_keeps_nothing(
        self, make: Any, asked: list[Asked], device: str
    ) -> None:
        seated = _seat(make(), asked)
        for slot in seated.mine:
            seated.processor.commit([slot], [7, 9], [2])
            seated.processor.remove(slot)
        anew, fresh = _seat(seated.processor, asked), _seat(make(), asked)
        logits = _logits(len(fresh.mine), device)
        assert torch.equal(anew.edit(logits, anew.mine), fresh.edit(logits, fresh.mine))


@dataclass(frozen=True)
class _Seated:
    """A processor with requests in slots; `mine` are those that it has something to do for."""

    processor: LogitsProcessor
    asked: Sequence[Asked]
    mine: list[int]
    shift: int

    def edit(
        self, logits: torch.Tensor, slots: Sequence[int], outputs: Sequence[Sequence[int]] | None = None
    ) -> torch.Tensor:
        """A copy of the logits, edited."""
        edited = logits.clone()
        lengths = [
            len(self.asked[slot - self.shift].prompt) + len(outputs[slot - self.shift] if outputs else ())
            for slot in slots
        ]
        self.processor.process(edited, SampleRows(slots=list(slots), positions=lengths))
        return edited


def _seat(
    processor: LogitsProcessor,
    asked: Sequence[Asked],
    outputs: Sequence[Sequence[int]] | None = None,
    shift: int = 0,
) -> _Seated:
    mine = [
        slot + shift
        for slot, one in enumerate(asked)
        if processor.add(slot + shift, one.sampling(), one.prompt, list(outputs[slot]) if outputs else [])
    ]
    return _Seated(processor, asked, mine, shift)


def _logits(rows: int, device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, VOCAB, generator=generator).to(device)
