"""What the sampler suite runs on: requests, their parameters, and a bench that seats and steps them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from quire.contracts import Distribution, Sampler, SamplerInit, SamplerNeed, SampleRows
from quire.ops import Kernels
from quire.sampling_params import SamplingParams
from quire.testing.sampler_reference import reference_logits, reference_probabilities

__all__ = [
    "EDITS",
    "SHAPES",
    "SLOTS",
    "VOCAB",
    "Bench",
    "Seat",
    "chi_square_p",
    "random_logits",
    "random_seat",
]

VOCAB = 37
SLOTS = 8
EOS = 2

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "hot": {"temperature": 1.7},
    "top_k": {"top_k": 7},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.1},
    "top_k_top_p": {"top_k": 12, "top_p": 0.8},
    "temperature_top_k_top_p_min_p": {"temperature": 1.3, "top_k": 15, "top_p": 0.9, "min_p": 0.03},
    "temperature_min_p": {"temperature": 2.0, "min_p": 0.2},
    "bias_penalties_top_p": {"logit_bias": {3: 2.0, 5: -100.0}, "repetition_penalty": 1.4, "top_p": 0.95},
}

EDITS: dict[str, dict[str, Any]] = {
    "allowed": {"allowed_token_ids": [1, 4, 9, 30]},
    "bad_words": {"bad_words_token_ids": ((7,), (5, 6, 8), (6, 9), (1, 2, 3, 4, 5, 6, 10))},
    "min_tokens": {"min_tokens": 4, "stop_token_ids": [11, 12]},
    "min_tokens_reached": {"min_tokens": 3, "stop_token_ids": [11, 12]},
    "min_tokens_ignore_eos": {"min_tokens": 4, "ignore_eos": True, "stop_token_ids": [11]},
    "bias": {"logit_bias": {0: 5.5, 36: -100.0, 6: 1.25}},
    "repetition": {"repetition_penalty": 1.3},
    "repetition_below_1": {"repetition_penalty": 0.7},
    "frequency": {"frequency_penalty": 0.8},
    "presence": {"presence_penalty": -1.5},
    "all_penalties": {"repetition_penalty": 1.2, "frequency_penalty": -0.4, "presence_penalty": 0.9},
    "everything": {
        "allowed_token_ids": [*range(0, 37, 2), 5, 9],
        "bad_words_token_ids": ((6, 8), (4,)),
        "min_tokens": 5,
        "stop_token_ids": [12],
        "logit_bias": {5: 3.0, 12: 7.0, 8: 9.0, 4: 9.0},
        "repetition_penalty": 1.1,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
        "temperature": 0.9,
        "min_p": 0.01,
        "top_k": 9,
        "top_p": 0.97,
    },
}


@dataclass
class Seat:
    """A request as the suite seats it."""

    params: SamplingParams
    seed: int
    prompt: list[int] = field(default_factory=lambda: [3, 5, 5, 20])
    outputs: list[int] = field(default_factory=list)

    @property
    def position(self) -> int:
        """Position of the token sampled next."""
        return len(self.prompt) + len(self.outputs)


@dataclass
class Bench:
    """Seats requests in a new sampler and runs single steps.

    Attributes:
        sampler_class, kernels, device: what is tested, on what.
        coupled: of the need that samplers are made for.
    """

    sampler_class: type[Sampler]
    kernels: Kernels
    device: str
    coupled: bool = False

    def sampler(self, seats: Sequence[Seat], vocab: int = VOCAB) -> Sampler:
        """A sampler with `seats` in slots 0, 1, ..."""
        need = SamplerNeed(
            device=torch.device(self.device).type, dtype="float32", vocab_size=vocab, coupled=self.coupled
        )
        init = SamplerInit(
            need=need,
            device=self.device,
            max_num_seqs=max(SLOTS, len(seats)),
            kernels=self.kernels,
            eos_token_ids=(EOS,),
        )
        sampler = self.sampler_class(init)
        for slot, seat in enumerate(seats):
            sampler.add(slot, seat.params, seat.seed, seat.prompt, seat.outputs)
        return sampler

    def run(
        self,
        sampler: Sampler,
        seats: Sequence[Seat],
        logits: torch.Tensor,
        slots: Sequence[int] | None = None,
    ) -> tuple[Distribution, list[int]]:
        """Process and draw one row per slot, in the order of `slots`."""
        slots = list(range(len(seats))) if slots is None else slots
        rows = SampleRows(slots, [seats[slot].position for slot in slots])
        distribution = sampler.process(logits.to(self.device), rows)
        return distribution, sampler.draw(distribution, rows).tolist()

    def step(
        self, seats: Sequence[Seat], logits: torch.Tensor, vocab: int = VOCAB
    ) -> tuple[Distribution, list[int]]:
        """The same in a new sampler."""
        return self.run(self.sampler(seats, vocab), seats, logits)

    def check(self, seats: Sequence[Seat], logits: torch.Tensor) -> None:
        """Compare every row with the scalar reference, and its draw with what the row allows."""
        distribution, ids = self.step(seats, logits)
        assert list(distribution.greedy) == [seat.params.greedy for seat in seats]
        for row, seat in enumerate(seats):
            expected = reference_logits(logits[row].tolist(), seat.params, seat.prompt, seat.outputs, (EOS,))
            if seat.params.greedy:
                assert ids[row] == expected.index(max(expected))
                continue
            wanted = torch.tensor(reference_probabilities(expected), dtype=torch.float64)
            found = distribution.logits[row].double().softmax(-1).cpu()
            assert torch.equal(found > 0, wanted > 0), (row, seat.params)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-9)
            assert wanted[ids[row]] > 0


def random_logits(rows: int, seed: int) -> torch.Tensor:
    """`[rows, VOCAB]` fp32, of a spread that makes some tokens likely and none impossible."""
    return 1.5 * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def random_seat(choose: random.Random, outputs: int = 6) -> Seat:
    """A request with a random subset of all parameters."""

    def some(count: int) -> list[int]:
        return [choose.randrange(VOCAB) for _ in range(count)]

    offered: dict[str, Any] = {
        "temperature": choose.choice([0.0, 0.5, 1.5]),
        "top_k": choose.choice([-1, 1, 3, 20]),
        "top_p": choose.choice([0.1, 0.5, 0.95]),
        "min_p": choose.choice([0.02, 0.3]),
        "repetition_penalty": choose.choice([0.8, 1.5]),
        "frequency_penalty": choose.uniform(-2, 2),
        "presence_penalty": choose.uniform(-2, 2),
        "min_tokens": choose.randrange(1, 8),
        "stop_token_ids": some(3),
        "ignore_eos": choose.random() < 0.5,
        "logit_bias": {token: choose.uniform(-5, 5) for token in some(4)},
        "allowed_token_ids": some(20),
        "bad_words_token_ids": tuple(tuple(some(choose.choice([1, 2]))) for _ in range(6)),
    }
    taken = {name: value for name, value in offered.items() if choose.random() < 0.5}
    return Seat(
        SamplingParams(**taken),
        choose.getrandbits(64),
        prompt=some(choose.randrange(1, 9)),
        outputs=some(choose.randrange(outputs + 1)),
    )


def chi_square_p(observed: Sequence[int], exact: Sequence[float]) -> float:
    """Probability of a deviation at least this large under the exact distribution (Pearson's test).

    Tokens expected fewer than five times are counted together.
    """
    count = sum(observed)
    pairs = [(n, p * count) for n, p in zip(observed, exact, strict=True)]
    bins = [(n, e) for n, e in pairs if e >= 5]
    rest = [(n, e) for n, e in pairs if 0 < e < 5]
    if rest:
        bins.append((sum(n for n, _ in rest), sum(e for _, e in rest)))
    statistic = sum((n - e) ** 2 / e for n, e in bins)
    halves = torch.tensor([(len(bins) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(halves[0], halves[1]))
