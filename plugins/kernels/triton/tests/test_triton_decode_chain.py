"""Steps of slots one after the other: each reads where the last one left its tokens, as captured steps do."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed, SamplerInit, SamplerNeed, SampleRows
from quire.ops import Kernels
from quire.sampling_params import SamplingParams
from quire_kernels_triton.kernels import TritonKernels
from quire_sampler_standard.sampler import StandardSampler

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INIT = KernelsInit(need=KernelsNeed(device=DEVICE, dtype="float32"), device=DEVICE)
VOCAB, SLOTS, STEPS = 61, 6, 4
PROMPT = [3, 9, 4]
PARAMS = [
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"top_k": 7},
    {"top_p": 0.7, "temperature": 1.3},
    {"min_p": 0.1},
    {"top_k": 20, "top_p": 0.9, "min_p": 0.02},
]


def sampler(kernels: Kernels, kinds: list[int]) -> StandardSampler:
    """With a request of each kind, in this order."""
    need = SamplerNeed(device=DEVICE, dtype="float32", vocab_size=VOCAB)
    made = StandardSampler(SamplerInit(need=need, device=DEVICE, max_num_seqs=SLOTS, kernels=kernels))
    for slot, kind in enumerate(kinds):
        made.add(slot, SamplingParams(**PARAMS[kind]), 40 + kind, PROMPT, [])  # type: ignore[arg-type]
    return made


def model(ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Logits that the last token and its position alone decide, `[R, VOCAB]`."""
    table = 2 * torch.randn(VOCAB + 16, VOCAB, generator=torch.Generator().manual_seed(4)).to(DEVICE)
    return table[ids] + table[VOCAB + positions]


def expected(kind: int) -> list[int]:
    """A request's tokens by the reference's kernels, by itself, the host telling every step its input."""
    alone, tokens = sampler(Kernels(INIT), [kind]), list(PROMPT)
    for _ in range(STEPS):
        rows = SampleRows([0], [len(tokens)])
        last, at = torch.tensor(tokens[-1:], device=DEVICE), torch.tensor([len(tokens) - 1], device=DEVICE)
        tokens += alone.draw(alone.process(model(last, at), rows), rows).tolist()
    return tokens[len(PROMPT) :]


@pytest.mark.parametrize("kinds", [[0], [1, 4], [5, 0, 3, 1, 2, 4]], ids=["greedy", "uncut", "every"])
def test_slots_go_on_by_themselves(kinds: list[int]) -> None:
    ours = TritonKernels(INIT)
    seated = sampler(ours, kinds)
    draw = seated.captured_draw()
    assert not isinstance(draw, str)
    last_ids, lengths = torch.zeros((2, SLOTS), dtype=torch.int64, device=DEVICE)
    last_ids[: len(kinds)], lengths[: len(kinds)] = PROMPT[-1], len(PROMPT)
    order = list(range(len(kinds)))[::-1]
    slots = torch.tensor([*order, -1, -1], device=DEVICE)  # two for nobody
    nothing = torch.full_like(slots, -1)  # is given: rows go on from their slots' last tokens
    drawn = []
    for step in range(STEPS):
        form = draw.prepare(SampleRows(order, [len(PROMPT) + step] * len(order)))
        assert form is not None
        ids, positions = ours.take_inputs(last_ids, lengths, slots, nothing, nothing)
        chosen, invalid = draw.draw(model(ids, positions), slots, positions + 1, form)
        ours.record_sampled(last_ids, lengths, slots, chosen)
        assert not invalid[: len(order)].any()
        drawn.append(last_ids[: len(kinds)].tolist())
    assert [list(tokens) for tokens in zip(*drawn, strict=True)] == [expected(kind) for kind in kinds]
    assert lengths.tolist() == [len(PROMPT) + STEPS] * len(kinds) + [0] * (SLOTS - len(kinds))
