"""On a GPU: compiled kernels against fp64, in captured graphs, in a cache of more than 2^31 elements.

Without one the same lines run in Triton's interpreter at the size of a toy, and nothing is captured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from quire.contracts import AttentionInit
from quire.testing.attention_rig import TOLERANCES, AttentionRig, Request, Shape
from quire_attn_triton.backend import TritonAttention
from quire_attn_triton.work import FP8

# The interpreter computes with NumPy, which warns of NaN and infinities where a GPU goes on.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::RuntimeWarning")]

ON_GPU = torch.cuda.is_available()
CASES = [(1, 1328), (5, 18), (129, 463)] if ON_GPU else [(1, 40), (5, 18), (33, 60)]
"""Rows of a step and the context they end."""

HEADS = [64, 80, 128, 256] if ON_GPU else [80]
ELEMENTS = 2**31 if ON_GPU else 2**20
"""Of K, and of V: more than 32 bits count."""


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """The work as a CUDA graph; as it is where there is no GPU."""
    if not ON_GPU:
        return work
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        work()
    return graph.replay


class Fp8Attention(TritonAttention):
    """The backend with an fp8 cache, whatever the need says."""

    def __init__(self, init: AttentionInit) -> None:
        cache = replace(init.need.cache, dtype=FP8)
        super().__init__(replace(init, need=replace(init.need, cache=cache)))


def relative_error(out: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over that of what is wanted."""
    return float((out.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("head_dim", HEADS)
@pytest.mark.parametrize(("rows", "context"), CASES)
def test_equals_fp64(
    make_rig: Callable[..., AttentionRig], rows: int, context: int, head_dim: int, dtype: str
) -> None:
    shape = Shape(kv_heads=2, ratio=4, head_dim=head_dim, block_size=16)
    rig = make_rig(shape, dtype)
    sequence = rig.add(context)
    if context > rows:
        rig.run([sequence], [context - rows])
    out = rig.run([sequence], [rows])[0]
    wanted = rig.expected(sequence, context - rows, context)
    rig.close(out, wanted)
    assert relative_error(out, wanted) < TOLERANCES[dtype] / 2


@pytest.mark.parametrize("window", [None, 200 if ON_GPU else 20])
@pytest.mark.parametrize("soft_cap", [None, 20.0])
@pytest.mark.parametrize("block_size", [16, 64, 128] if ON_GPU else [16])
def test_all_cases_in_one_batch(
    make_rig: Callable[..., AttentionRig], window: int | None, soft_cap: float | None, block_size: int
) -> None:
    shape = Shape(kv_heads=2, ratio=4, head_dim=128, window=window, soft_cap=soft_cap, block_size=block_size)
    rig = make_rig(shape, "bfloat16")
    sequences = [rig.add(context) for _, context in CASES]
    rig.run(sequences, [context - rows for rows, context in CASES])
    rig.check(sequences, [rows for rows, _ in CASES])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(("rows", "context"), CASES)
def test_an_fp8_cache_is_near(
    make_rig: Callable[..., AttentionRig], rows: int, context: int, dtype: str
) -> None:
    rig = make_rig(Shape(kv_heads=2, ratio=4, head_dim=128), dtype, backend=Fp8Attention)
    sequence = rig.add(context)
    rig.run([sequence], [context - rows])
    out = rig.run([sequence], [rows])[0]
    assert relative_error(out, rig.expected(sequence, context - rows, context)) < 0.06


def test_blocks_beyond_32_bits(make_rig: Callable[..., AttentionRig]) -> None:
    rig = make_rig(Shape(kv_heads=8, ratio=1, head_dim=128, block_size=16), "bfloat16")
    per_block = 8 * 16 * 128
    blocks = ELEMENTS // per_block + 100
    if ON_GPU and torch.cuda.mem_get_info()[0] < 5 * blocks * per_block:
        pytest.skip("needs about 10 GiB of free memory")
    layout = rig.backend.kv_layout(blocks).tensors
    rig.kv = {name: torch.zeros(x.shape, dtype=rig.dtype, device=rig.device) for name, x in layout.items()}
    counts = [334, 128, 1] if ON_GPU else [20, 18, 1]
    q = rig.normal(sum(counts), 8, 128)
    k, v = (rig.normal(sum(counts), 8, 128) for _ in range(2))
    sequence = Request(q, k, v, list(range(blocks - 1, blocks - 31, -1)))
    for count in counts:
        rig.check([sequence], [count])


def test_a_block_table_beyond_32_bits(make_rig: Callable[..., AttentionRig]) -> None:
    stride = 2**30 if ON_GPU else 2**12
    if ON_GPU and torch.cuda.mem_get_info()[0] < 9 * stride:
        pytest.skip("needs about 10 GiB of free memory")
    rig = make_rig(Shape(kv_heads=2, ratio=4, head_dim=128), "bfloat16")
    sequences = [rig.add(context) for _, context in CASES]
    entries = torch.empty(2 * stride + 1024, dtype=torch.int32, device=rig.device)
    for counts in ([context - rows for rows, context in CASES], [rows for rows, _ in CASES]):
        batch = rig.batch(sequences, counts)
        # On a GPU the last row begins at 2^31.
        table = entries.as_strided(batch.block_table.shape, (stride, 1))
        table.copy_(batch.block_table)
        batch.block_table = table
        starts = [sequence.computed for sequence in sequences]
        outs = rig.run(sequences, counts, batch)
        for sequence, start, out in zip(sequences, starts, outs, strict=True):
            rig.close(out, rig.expected(sequence, start, sequence.computed))


def test_a_captured_step_is_replayed_with_other_lengths(make_rig: Callable[..., AttentionRig]) -> None:
    rig = make_rig(Shape(kv_heads=2, ratio=4, head_dim=128), "bfloat16")
    sequences = [rig.add(total) for total in ((1328, 18, 463) if ON_GPU else (76, 18, 40))]
    rig.run(sequences, [1300, 9, 400] if ON_GPU else [60, 9, 30])
    for sequence in sequences:
        rig.check([sequence], [1])  # compiles, which must not happen while a graph is captured
    rig.check(sequences, [1, 1, 1])
    q, k, v = (
        torch.cat([getattr(sequence, name)[:1] for sequence in sequences]).clone() for name in ("q", "k", "v")
    )
    batch = rig.batch(sequences, [1, 1, 1])
    metadata = rig.backend.plan(batch)
    rig.backend.begin_capture(metadata)
    out = torch.empty_like(q)

    def work() -> None:
        out.copy_(rig.backend.forward(q, k, v, rig.kv, metadata, rig.layer, rig.rope))

    replay = captured(work)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        some = [sequences[place] for place in order]
        for own, name in ((q, "q"), (k, "k"), (v, "v")):
            own.copy_(torch.cat([getattr(one, name)[one.computed : one.computed + 1] for one in some]))
        rig.backend.begin_replay(metadata, rig.batch(some, [1, 1, 1]))
        replay()
        for row, one in enumerate(some):
            one.computed += 1
            rig.close(out[row : row + 1], rig.expected(one, one.computed - 1, one.computed))
