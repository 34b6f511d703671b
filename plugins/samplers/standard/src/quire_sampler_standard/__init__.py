"""Quire's standard sampler: every field of `SamplingParams`, vectorised over the batch."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import SamplerSpec, hookimpl


@hookimpl
def quire_samplers() -> Iterable[SamplerSpec]:
    """One sampler, for any device."""
    yield SamplerSpec(
        name="standard",
        api=1,
        target="quire_sampler_standard.sampler:StandardSampler",
        priority=50,
        summary="Every sampling parameter, vectorised, on any device",
    )
