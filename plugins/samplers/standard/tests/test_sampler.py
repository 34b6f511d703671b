"""What the standard sampler promises beyond the contract: its cost, its memory, its description."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import quire_sampler_standard
from quire.contracts import KINDS, KernelsInit, KernelsNeed, SamplerInit, SamplerNeed, SampleRows
from quire.ops import Kernels
from quire.sampling_params import SamplingParams
from quire_sampler_standard.sampler import StandardSampler
from quire_sampler_standard.slots import History, SlotTable

VOCAB = 1000
KERNELS = KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu")


class Counting(Kernels):
    """Counts the argmaxes asked for."""

    argmaxes = 0

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        self.argmaxes += 1
        return super().argmax(logits)


class WideOps(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves it untyped
    """Names the operations that read or write something as large as the logits."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # the same
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Tensor) and x.numel() >= VOCAB for x in (*args, out)):
            self.names.append(func.overloadpacket.__name__)
        return out


def _sampler(
    params: list[SamplingParams], kernels: Kernels | None = None, *, coupled: bool = False
) -> StandardSampler:
    init = SamplerInit(
        need=SamplerNeed(device="cpu", dtype="float32", vocab_size=VOCAB, coupled=coupled),
        device="cpu",
        max_num_seqs=len(params),
        kernels=kernels or Kernels(KERNELS),
        eos_token_ids=(2,),
    )
    sampler = StandardSampler(init)
    for slot, one in enumerate(params):
        sampler.add(slot, one, slot, [1, 2, 3], [])
    return sampler


def _rows(count: int) -> SampleRows:
    return SampleRows(list(range(count)), [3] * count)


def test_a_greedy_batch_is_one_argmax() -> None:
    kernels = Counting(KERNELS)
    sampler = _sampler([SamplingParams(temperature=0, top_p=0.5, top_k=3, min_p=0.1)] * 4, kernels)
    logits = torch.randn(4, VOCAB)
    with WideOps() as ops:
        distribution = sampler.process(logits, _rows(4))
        ids = sampler.draw(distribution, _rows(4))
    assert kernels.argmaxes == 1
    # `gather` reads one number per row at what argmax found, to see a NaN.
    assert [name for name in ops.names if name not in ("argmax", "detach")] == ["gather"]
    assert torch.equal(ids, logits.argmax(-1))


def test_a_greedy_row_is_the_same_beside_a_request_that_asks_for_more() -> None:
    greedy = SamplingParams(temperature=0)
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(3))
    logits[1], logits[2, 7], logits[3, 9] = -torch.inf, torch.nan, torch.inf
    alone, beside = _sampler([greedy] * 4), _sampler([greedy] * 4 + [SamplingParams(min_tokens=9, top_k=3)])
    plain = alone.process(logits, _rows(4))
    mixed = beside.process(torch.cat((logits, torch.zeros(1, VOCAB))), _rows(5))
    assert plain.invalid.tolist() == mixed.invalid.tolist()[:4] == [False, True, True, False]
    assert list(plain.greedy) == list(mixed.greedy)[:4] == [True] * 4
    assert torch.equal(alone.draw(plain, _rows(4)), beside.draw(mixed, _rows(5))[:4])
    beside.remove(4)  # nobody asks for more any longer
    assert torch.equal(beside.draw(beside.process(logits, _rows(4)), _rows(4)), logits.argmax(-1))


def test_greedy_rows_in_bf16_are_not_widened() -> None:
    sampler = _sampler([SamplingParams(temperature=0)] * 4)
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(2)).bfloat16()
    with WideOps() as ops:
        distribution = sampler.process(logits, _rows(4))
    assert "_to_copy" not in ops.names
    assert torch.equal(sampler.draw(distribution, _rows(4)), logits.argmax(-1))
    logits.view(torch.int16)[2, 5] = -0x40  # a negative NaN, as x86 makes them
    spoilt = sampler.process(logits, _rows(4))
    assert spoilt.invalid.tolist() == [False, False, True, False]
    kept = [0, 1, 3]
    assert torch.equal(sampler.draw(spoilt, _rows(4))[kept], logits[kept].argmax(-1))


def test_plain_sampling_reads_the_logits_for_a_maximum_and_a_softmax() -> None:
    sampler = _sampler([SamplingParams()] * 4)
    logits = torch.randn(4, VOCAB)
    with WideOps() as ops:
        sampler.draw(sampler.process(logits, _rows(4)), _rows(4))
    assert [name for name in ops.names if name != "detach"][:3] == ["gather", "_softmax", "slice"]


def test_a_replaced_distribution_is_drawn_from_anew() -> None:
    sampler = _sampler([SamplingParams(temperature=0)])
    logits = torch.zeros(1, VOCAB)
    logits[0, 5] = 1.0
    distribution = sampler.process(logits, _rows(1))
    other = replace(distribution, logits=logits.roll(1, dims=1))
    assert sampler.draw(distribution, _rows(1)).tolist() == [5]
    assert sampler.draw(other, _rows(1)).tolist() == [6]


def test_coupled_draws_depend_on_seed_and_position_alone() -> None:
    """Not on the neighbours, greedy ones among them; and like logits mostly give the same."""
    params = [SamplingParams(temperature=0.0), SamplingParams(temperature=0.8, top_k=50, min_p=0.001)] * 3
    logits = 2 * torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(1))
    sampler, agreed = _sampler(params, coupled=True), 0
    for position in range(200):
        rows = SampleRows(slots=list(range(6)), positions=[position] * 6)
        drawn = sampler.draw(sampler.process(logits, rows), rows)
        assert torch.equal(drawn[::2], logits[::2].argmax(-1))
        one = SampleRows(slots=[3], positions=[position])
        assert torch.equal(sampler.draw(sampler.process(logits[3:4], one), one), drawn[3:4])
        assert logits[3, drawn[3]] >= logits[3].topk(50).values[-1]
        like = logits[3:4] + 0.05 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(position))
        agreed += int(sampler.draw(sampler.process(like, one), one) == drawn[3])
    assert agreed > 180


@pytest.mark.parametrize("slot", [-1, 1])
def test_a_slot_that_is_not_there_is_refused(slot: int) -> None:
    sampler = _sampler([SamplingParams()])
    with pytest.raises(ValueError, match=f"Slot {slot} is"):
        sampler.add(slot, SamplingParams(), 0, [1], [])


def test_extreme_values_do_not_overflow_into_nan() -> None:
    params = [
        SamplingParams(temperature=1e300),
        SamplingParams(temperature=2e-5),
        SamplingParams(repetition_penalty=1e300),
        SamplingParams(repetition_penalty=1e-300),
    ]
    sampler = _sampler(params)
    logits = torch.randn(4, VOCAB)
    logits[:, 1], logits[:, 2], logits[:, 3] = 3e38, 0.0, -torch.inf
    distribution = sampler.process(logits, _rows(4))
    assert not distribution.logits.isnan().any()
    assert not distribution.invalid.any()
    ids = sampler.draw(distribution, _rows(4)).tolist()
    assert ids[1] == 1
    assert ids[3] == 1


def test_end_tokens_past_the_vocabulary_harm_nobody() -> None:
    table = SlotTable(1, VOCAB, (2, VOCAB, -1))
    table.add(0, SamplingParams(min_tokens=3), 0, [1], [])
    assert table.rare[0].ending.tolist() == [2]


def test_history_grows_with_the_tokens_seen() -> None:
    history = History([5, 5, 7])
    history.append(range(500))
    history.append([7, 7])
    ids, counts = history.entries([7, 600, 600])
    seen = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    assert len(seen) == len(ids) == 501
    assert (seen[7], seen[5], seen[499], seen[600]) == (4, 1, 1, 2)
    ids, counts = history.entries()
    assert dict(zip(ids.tolist(), counts.tolist(), strict=True))[7] == 3
    assert 600 not in ids


def test_the_description_is_light_and_right() -> None:
    (spec,) = quire_sampler_standard.quire_samplers()
    assert spec.name == "standard"
    assert spec.api == KINDS["sampler"].api
    module, _, attribute = spec.target.partition(":")
    assert getattr(sys.modules[module], attribute) is StandardSampler


def test_a_freed_slot_gives_its_memory_back() -> None:
    table = SlotTable(1, VOCAB, (2,))
    table.add(0, SamplingParams(presence_penalty=1.0, bad_words_token_ids=((4,),)), 0, [1], [3])
    assert table.rare[0].history
    assert table.rare[0].outputs
    table.remove(0)
    assert [table.rare[0].history, table.rare[0].outputs] == [None, None]
