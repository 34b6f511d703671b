"""Decoder layers in one call against the same layers one by one: the same bits, rows and cache alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed, ProfiledLayer
from quire.layers import Build, DecoderLayer, DecoderStack, Step, Tap
from quire.ops import Kernels
from quire.testing.decoder_layer import STEPS, TwoLayers
from quire.testing.runner import PagedRunner
from quire_attn_cpu.backend import CpuAttention
from quire_kernels_cpu.kernels import CpuKernels
from quire_native_cpu import available

pytestmark = pytest.mark.skipif(not available(), reason="nothing was compiled")


class Stacked(TwoLayers):
    """The same layers, called as one."""

    def __init__(self, config: Mapping[str, Any], build: Build) -> None:
        super().__init__(config, build)
        self.layers = DecoderStack(build, cast("list[DecoderLayer]", list(self.layers)))

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        before = x.clone()
        out, residual = self.layers(x, positions, step)
        assert torch.equal(x, before), "the input was written to"
        hidden: torch.Tensor = self.norm(out, residual)[0]
        return hidden


def _runner(model: type[TwoLayers], dtype: torch.dtype, kernels: type[Kernels] = CpuKernels) -> PagedRunner:
    runner = PagedRunner(
        model,
        {},
        None,
        attention_class=CpuAttention,
        kernels_class=kernels,
        block_size=4,
        device="cpu",
        dtype=dtype,
    )
    for name in ("a", "b", "c"):
        runner.add(name, [(7 * position + ord(name)) % 31 for position in range(24)])
    return runner


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stack_gives_what_its_layers_give(dtype: torch.dtype) -> None:
    stacked, single = _runner(Stacked, dtype), _runner(TwoLayers, dtype)
    stack: Any = stacked.model.layers  # type: ignore[attr-defined]
    assert stack.fused is not None
    kept = []
    for counts in STEPS:
        ours, theirs = stacked.run(counts), single.run(counts)
        kept.append((ours, {name: rows.clone() for name, rows in ours.items()}))
        for name in counts:
            assert torch.equal(ours[name], theirs[name])
    for mine, others in zip(stacked.kv, single.kv, strict=True):
        for name in others:
            assert torch.equal(mine[name], others[name])
    for ours, before in kept:  # no step writes to what an earlier one gave out
        assert all(torch.equal(ours[name], rows) for name, rows in before.items())


def test_states_between_layers_are_those_of_the_layers() -> None:
    """A tap cuts the call in two, and changes nothing."""
    plain, tapped = _runner(Stacked, torch.float32), _runner(Stacked, torch.float32)
    layers: Any = tapped.model.layers  # type: ignore[attr-defined]
    states: list[dict[int, torch.Tensor]] = []
    forward = layers.forward

    def with_tap(x: torch.Tensor, positions: torch.Tensor, step: Step) -> Any:
        tap = Tap((2, 0, 1))
        out = forward(x, positions, Step(step.metadata, step.kv, tap))
        states.append({**tap.states, -1: x})
        torch.testing.assert_close(tap.states[2], out[0] + out[1], rtol=0, atol=0)
        return out

    layers.forward = with_tap
    for counts in STEPS:
        ours, theirs = tapped.run(counts), plain.run(counts)
        assert all(torch.equal(ours[name], theirs[name]) for name in counts)
    single = _runner(TwoLayers, torch.float32)
    first: Any = next(iter(single.model.layers))  # type: ignore[attr-defined]
    left: list[torch.Tensor] = []
    first.register_forward_hook(lambda module, inputs, out: left.append(out[0] + out[1]))
    for counts in STEPS:
        single.run(counts)
    for found, expected in zip(states, left, strict=True):
        assert torch.equal(found[0], found[-1])  # the embedding
        assert torch.equal(found[1], expected)


def test_a_stack_accounts_for_its_time_by_the_names_of_its_projections() -> None:
    runner = _runner(Stacked, torch.float32)
    fused: Any = runner.model.layers.fused  # type: ignore[attr-defined]
    assert isinstance(fused, ProfiledLayer)
    assert fused.phases() == {}
    fused.profile(True)
    runner.run({"a": 7})
    phases = fused.phases()
    assert set(phases) > {"norm", "rotary", "attention", "gate_up_proj+activation", "down_proj"}
    assert min(phases.values()) > 0
    assert set(fused.phases().values()) == {0.0}
    fused.profile(False)
    assert fused.phases() == {}


def test_layers_of_others_are_not_stacked() -> None:
    class Half(CpuKernels):
        def decoder_layer(self, parts: Any) -> Any:
            self.asked = not getattr(self, "asked", False)
            return super().decoder_layer(parts) if self.asked else None

    stack: Any = _runner(Stacked, torch.float32, Half).model.layers  # type: ignore[attr-defined]
    assert stack.fused is None
    kernels = CpuKernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
    assert kernels.decoder_stack([lambda x, residual, positions, step: (x, x)]) is None
