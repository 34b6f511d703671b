"""The speculator `eagle`: EAGLE-3 heads, which continue from the served model's own hidden states."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import ModelSpec, SpeculatorSpec, hookimpl


@hookimpl
def quire_speculators() -> Iterable[SpeculatorSpec]:
    """One, for every device."""
    yield SpeculatorSpec(
        name="eagle",
        api=1,
        target="quire_speculator_eagle.speculator:EagleSpeculator",
        takes_model=True,
        summary="An EAGLE-3 head proposes from the served model's hidden states, one token after another",
    )


@hookimpl
def quire_models() -> Iterable[ModelSpec]:
    """The head, a network like any other to whoever loads it."""
    yield ModelSpec(
        name="eagle3",
        api=1,
        target="quire_speculator_eagle.head:Eagle3Head",
        matches=frozenset({"LlamaForCausalLMEagle3"}),
        summary="EAGLE-3 heads, for the speculator 'eagle'",
    )
