"""Prompt lookup: what followed the same tokens before is proposed again."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import SpeculatorSpec, hookimpl


@hookimpl
def quire_speculators() -> Iterable[SpeculatorSpec]:
    """One speculator, for any device: it looks at token ids alone."""
    yield SpeculatorSpec(
        name="ngram",
        api=1,
        target="quire_speculator_ngram.speculator:NgramSpeculator",
        options="quire_speculator_ngram.options:NgramOptions",
        summary="Prompt lookup: what followed the same tokens in prompt and output before",
    )
