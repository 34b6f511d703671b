"""On a GPU with FlashInfer: the conformance suite, fp64 references, captured steps. It has yet to run.

Few dtypes and sizes of heads: FlashInfer compiles each for minutes, unless its compiled kernels are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from quire import LLM, SamplingParams
from quire.contracts import AttentionBackend, AttentionInit, AttentionLayer, AttentionNeed, Rope
from quire.testing.attention import AttentionSuite
from quire.testing.attention_rig import TOLERANCES, AttentionRig, Request, Shape
from quire_attn_flashinfer.backend import FlashInferAttention
from quire_attn_flashinfer.metadata import StepMetadata

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    pytest.mark.skipif(find_spec("flashinfer") is None, reason="needs FlashInfer"),
]

HEAD_DIM = 128
CASES = [(1, 1328), (5, 18), (129, 463)]
"""Rows of a step and the context they end."""


class WidenedHeads(FlashInferAttention):
    """Heads of the suite's sizes, filled up to 128 elements with zeros, which add nothing."""

    def __init__(self, init: AttentionInit) -> None:
        self.wanted = init.need.cache.head_dim
        super().__init__(replace(init, need=_widened(init.need)))

    @classmethod
    def reject(cls, need: AttentionNeed) -> str | None:
        return super().reject(_widened(need))

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kv: Mapping[str, torch.Tensor],
        metadata: StepMetadata,
        layer: AttentionLayer,
        rope: Rope | None = None,
    ) -> torch.Tensor:
        fill = (0, HEAD_DIM - self.wanted)
        q, k, v = (F.pad(x, fill) for x in (q, k, v))
        return super().forward(q, k, v, kv, metadata, layer, rope)[..., : self.wanted]


def _widened(need: AttentionNeed) -> AttentionNeed:
    return replace(need, cache=replace(need.cache, head_dim=HEAD_DIM))


class TestOnAGpu(AttentionSuite):
    dtypes: Sequence[str] = ("bfloat16",)

    @pytest.fixture
    def backend_class(self) -> type[AttentionBackend]:
        return WidenedHeads

    @pytest.fixture
    def device(self) -> str:
        return "cuda"


def make_rig(shape: Shape, dtype: str) -> AttentionRig:
    return AttentionRig(FlashInferAttention, shape, device="cuda", dtype=dtype, num_blocks=300)


@pytest.mark.parametrize(
    ("dtype", "head_dim"), [("bfloat16", 64), ("bfloat16", 128), ("float16", 128), ("bfloat16", 256)]
)
@pytest.mark.parametrize("ratio", [1, 3, 4, 7])
@pytest.mark.parametrize(("rows", "context"), CASES)
def test_equals_fp64(rows: int, context: int, ratio: int, head_dim: int, dtype: str) -> None:
    rig = make_rig(Shape(kv_heads=2, ratio=ratio, head_dim=head_dim), dtype)
    sequence = rig.add(context)
    rig.run([sequence], [context - rows])
    out = rig.run([sequence], [rows])[0].double()
    wanted = rig.expected(sequence, context - rows, context).double()
    rig.close(out, wanted)
    assert (out - wanted).norm() / wanted.norm() < TOLERANCES[dtype] / 2


@pytest.mark.parametrize("window", [None, 200])
@pytest.mark.parametrize("soft_cap", [None, 20.0])
@pytest.mark.parametrize("block_size", [16, 64, 128])
def test_all_cases_in_one_batch(window: int | None, soft_cap: float | None, block_size: int) -> None:
    shape = Shape(kv_heads=2, ratio=4, head_dim=128, window=window, soft_cap=soft_cap, block_size=block_size)
    rig = make_rig(shape, "bfloat16")
    sequences = [rig.add(context) for _, context in reversed(CASES)]
    rig.run(sequences, [context - rows for rows, context in reversed(CASES)])
    rig.check(sequences, [rows for rows, _ in reversed(CASES)])  # chunks, and a decode at the end


def test_blocks_beyond_32_bits() -> None:
    rig = make_rig(Shape(kv_heads=8, ratio=1, head_dim=128), "bfloat16")
    per_block = 8 * 16 * 128
    blocks = 2**31 // per_block + 100
    if torch.cuda.mem_get_info()[0] < 5 * blocks * per_block:
        pytest.skip("needs about 10 GiB of free memory")
    layout = rig.backend.kv_layout(blocks).tensors
    rig.kv = {name: torch.zeros(x.shape, dtype=rig.dtype, device=rig.device) for name, x in layout.items()}
    q, k, v = (rig.normal(463, 8, 128) for _ in range(3))
    sequence = Request(q, k, v, list(range(blocks - 1, blocks - 31, -1)))
    rig.check([sequence], [334])
    rig.check([sequence], [128])
    rig.check([sequence], [1])


@pytest.mark.parametrize("ratio", [2, 4])
@pytest.mark.parametrize("window", [None, 200])
def test_a_captured_step_equals_an_uncaptured_one(ratio: int, window: int | None) -> None:
    rig = make_rig(Shape(kv_heads=2, ratio=ratio, head_dim=128, window=window), "bfloat16")
    sequences = [rig.add(total) for total in (1328, 18, 463)]
    rig.run(sequences, [1300, 9, 400])
    rig.check(sequences, [1, 1, 1])  # compiles, which must not happen while a graph is captured
    first = rig.batch(sequences, [1, 1, 1])
    first.slot_mapping[:] = -1
    q, k, v = (
        torch.cat([getattr(sequence, name)[:1] for sequence in sequences]).clone() for name in ("q", "k", "v")
    )
    metadata = rig.backend.plan(first)
    rig.backend.begin_capture(metadata)
    with torch.inference_mode():
        rig.backend.forward(q, k, v, rig.kv, metadata, rig.layer)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = rig.backend.forward(q, k, v, rig.kv, metadata, rig.layer)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        some = [sequences[place] for place in order]
        for own, name in ((q, "q"), (k, "k"), (v, "v")):
            own.copy_(torch.cat([getattr(one, name)[one.computed : one.computed + 1] for one in some]))
        rig.backend.begin_replay(metadata, rig.batch(some, [1, 1, 1]))
        graph.replay()
        captured = out.clone()
        plain = rig.run(some, [1, 1, 1])
        for row, one in enumerate(some):
            rig.close(captured[row : row + 1], plain[row])
            rig.close(captured[row : row + 1], rig.expected(one, one.computed - 1, one.computed))


def likely(**settings: Any) -> list[tuple[int, list[dict[int, float]]]]:
    """The first token after each prompt, and the likeliest there and, by a decode step, at the next place."""
    settings = {"device": "cuda", "dtype": "bfloat16", "max_model_len": 128, **settings}
    llm = LLM("tiny", kv_cache_memory_bytes="16MiB", show_progress=False, **settings)
    params = SamplingParams(temperature=0.0, max_tokens=2, logprobs=4, ignore_eos=True)
    prompts = ["def main(", "import os\nimport sys\n\n\nclass", "for i in range(", "x"]
    found = []
    for output in llm.generate(prompts, params, use_tqdm=False):
        (one,) = output.outputs
        assert one.logprobs is not None
        places = [{token: entry.logprob for token, entry in place.items()} for place in one.logprobs]
        found.append((one.token_ids[0], places))
    return found


@pytest.mark.parametrize("eager", [True, False])
def test_an_engine_finds_what_the_reference_backend_does(eager: bool) -> None:
    wanted = likely(attention_backend="torch", enforce_eager=True)
    compared = 0
    for (first, own), (token, other) in zip(
        likely(attention_backend="flashinfer", enforce_eager=eager), wanted, strict=True
    ):
        for place in range(1 + (first == token)):  # what follows another token is another matter
            common = own[place].keys() & other[place].keys()
            assert len(common) > 1
            for one in common:
                assert own[place][one] == pytest.approx(other[place][one], abs=0.15)
            compared += 1
    assert compared > len(wanted)
