"""`deterministic: true`, end to end: what a request is answered does not depend on what runs beside it.

Log probabilities of one request alone are compared, bit for bit, with those among neighbours, under other
chunk sizes, on cached prefixes and after preemption: with deliberately plain plugins that compute row by
row, and with whatever this environment would choose.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.errors import PluginError
from quire.testing.model import Reference

from .conftest import random_prompt

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]
Bits = list[tuple[int, dict[int, float]]]

HOOKS = """
from quire.contracts import AttentionSpec, KernelsSpec, hookimpl

@hookimpl
def quire_kernels():
    yield KernelsSpec(name="row-by-row", api=1, target="quire.testing.row_by_row:RowByRowKernels")
    yield KernelsSpec(name="tiled", api=1, target="plain_plugins_tiled:Tiled", priority=-1)

@hookimpl
def quire_attention_backends():
    yield AttentionSpec(name="plain", api=1, target="quire.testing.plain_attention:PlainAttention")
"""
TILED = """
import dataclasses
from quire.testing.row_by_row import RowByRowKernels

class Tiled(RowByRowKernels):
    def linear(self, x, packed):
        if x.shape[0] < 16:
            return super().linear(x, packed)
        return super().linear(x.flip(-1), dataclasses.replace(packed, weight=packed.weight.flip(-1)))
"""
PLAIN = {"kernels": "row-by-row", "attention_backend": "plain"}

SUBJECT = random_prompt(75, seed=1)
NEIGHBOURS = [random_prompt(length, seed=length) for length in (3, 90, 16, 41)] + [
    [*SUBJECT[:48], *random_prompt(20, seed=9)]  # shares three blocks
]


@pytest.fixture
def plain_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Installs the plain plugins for a test."""
    (tmp_path / "plain_plugins.py").write_text(HOOKS)
    (tmp_path / "plain_plugins_tiled.py").write_text(TILED)
    info = tmp_path / "plain_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-plugins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[quire]\nplain-plugins = plain_plugins\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "plain-plugins"
    for module in ("plain_plugins", "plain_plugins_tiled"):
        sys.modules.pop(module, None)


@pytest.fixture(params=["row-by-row float32", "chosen bfloat16", "chosen float32"])
def open_deterministic(request: pytest.FixtureRequest, plain_plugins: str, open_llm: OpenLLM) -> OpenLLM:
    """Opens deterministic engines: with the plain plugins, and with the best that are installed."""
    which, dtype = request.param.split()
    named = PLAIN if which == "row-by-row" else {}

    def make(reference: Reference, **settings: object) -> LLM:
        defaults = {"dtype": dtype, "deterministic": True, "max_num_batched_tokens": 128, **named}
        llm = open_llm(reference, **{**defaults, **settings})
        chosen = {one.distribution for one in llm._engine.plan.plugins.plugins.values()}
        if not named and plain_plugins in chosen:
            pytest.skip("no installed plugin is deterministic here")
        return llm

    return make


def answer(llm: LLM, neighbours: Sequence[Sequence[int]] = (), place: int = 0) -> list[Bits]:
    """What the subject is answered, greedily and drawn: token ids and log probabilities."""
    greedy = SamplingParams(temperature=0, max_tokens=20, logprobs=5, ignore_eos=True)
    drawn = SamplingParams(temperature=1, top_p=0.9, seed=5, max_tokens=20, logprobs=3, ignore_eos=True)
    other = SamplingParams(temperature=0.7, top_k=9, seed=1, max_tokens=33, logprobs=20, ignore_eos=True)
    prompts = [list(one) for one in neighbours]
    params = [other] * len(prompts)
    prompts[place:place] = [SUBJECT, SUBJECT]
    params[place:place] = [greedy, drawn]
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
    found: list[Bits] = []
    for output in outputs[place : place + 2]:
        one = output.outputs[0]
        assert one.logprobs is not None
        entries = [{token: entry.logprob for token, entry in step.items()} for step in one.logprobs]
        found.append(list(zip(one.token_ids, entries, strict=True)))
    return found


@pytest.fixture(scope="module")
def answers_alone() -> dict[str, list[Bits]]:
    """What `alone` has found already, by the name of the plugins and the dtype."""
    return {}


@pytest.fixture
def alone(
    request: pytest.FixtureRequest,
    checkpoint: Checkpoint,
    open_deterministic: OpenLLM,
    answers_alone: dict[str, list[Bits]],
) -> list[Bits]:
    """Each of the subject's two requests with nobody beside it and nothing cached."""
    which: str = request.node.callspec.params["open_deterministic"]
    if which not in answers_alone:
        llm = open_deterministic(checkpoint("llama"), enable_prefix_caching=False, max_num_seqs=1)
        answers_alone[which] = answer(llm)
    return answers_alone[which]


def test_neighbours_change_nothing(
    checkpoint: Checkpoint, open_deterministic: OpenLLM, alone: list[Bits]
) -> None:
    llm = open_deterministic(checkpoint("llama"), enable_prefix_caching=False)
    for place in (0, 2, len(NEIGHBOURS)):
        assert answer(llm, NEIGHBOURS, place) == alone


@pytest.mark.parametrize("budget", [8, 17, 64])
def test_chunks_change_nothing(
    checkpoint: Checkpoint, open_deterministic: OpenLLM, alone: list[Bits], budget: int
) -> None:
    llm = open_deterministic(checkpoint("llama"), enable_prefix_caching=False, max_num_batched_tokens=budget)
    assert answer(llm) == alone
    assert answer(llm, NEIGHBOURS, 3) == alone


def test_cached_prefixes_change_nothing(
    checkpoint: Checkpoint, open_deterministic: OpenLLM, alone: list[Bits]
) -> None:
    llm = open_deterministic(checkpoint("llama"), enable_prefix_caching=True)
    llm.generate({"prompt_token_ids": NEIGHBOURS[-1]}, SamplingParams(max_tokens=2), use_tqdm=False)
    for _ in ("a prefix of another's", "its own"):
        assert answer(llm) == alone
    assert llm.get_metrics().prefix_hits > 0


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize(("block_size", "blocks"), [(4, 45), (16, 12)])
def test_preemption_changes_nothing(
    checkpoint: Checkpoint, open_deterministic: OpenLLM, caching: bool, block_size: int, blocks: int
) -> None:
    """Compared with blocks of the same size, for a backend may lay the cache out by it."""
    settings = {"enable_prefix_caching": caching, "block_size": block_size, "max_model_len": 132}
    roomy = open_deterministic(checkpoint("llama"), **{**settings, "max_num_seqs": 1})
    alone, memory = answer(roomy), roomy.startup_report.memory
    llm = open_deterministic(
        checkpoint("llama"),
        **settings,
        kv_cache_memory_bytes=memory.kv // memory.num_blocks * blocks,
    )
    assert answer(llm, NEIGHBOURS, 3) == alone
    assert llm.get_metrics().num_preemptions > 0


@pytest.mark.usefixtures("plain_plugins")
def test_a_kernel_with_two_tile_sizes_would_be_found(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    """What the tests above would see of kernels that sum in another order from 16 rows on."""
    tiled = {"dtype": "float32", "deterministic": True, **PLAIN, "kernels": "tiled"}
    llm = open_llm(checkpoint("llama"), enable_prefix_caching=False, max_num_batched_tokens=128, **tiled)
    small = open_llm(checkpoint("llama"), enable_prefix_caching=False, max_num_batched_tokens=9, **tiled)
    assert answer(llm) != answer(small)


def test_nobody_who_could_is_an_error_with_a_way_out(checkpoint: Checkpoint) -> None:
    with pytest.raises(PluginError) as raised:
        LLM(
            str(checkpoint("llama").directory),
            deterministic=True,
            show_progress=False,
            device="cpu",
            plugins={"allow": ["quire-models-llama", "quire-attn-torch", "quire-sampler-standard"]},
        )
    message = str(raised.value)
    assert (
        "quire:reference is not deterministic: a product's rounding varies with the number of rows" in message
    )
    assert "quire:torch-cpu is not deterministic" in message
    assert "Leave out `deterministic`, or install quire-kernels-cpu." in message


@pytest.mark.usefixtures("plain_plugins")
def test_a_named_plugin_that_cannot_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(
        PluginError, match="attention 'torch' was asked for and cannot be used: is not determ"
    ):
        LLM(
            str(checkpoint("llama").directory),
            deterministic=True,
            show_progress=False,
            kernels="row-by-row",
            attention_backend="torch",
        )
