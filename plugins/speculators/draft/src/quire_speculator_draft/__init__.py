"""The speculator `draft`: a smaller model of the same vocabulary says how requests may go on."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import SpeculatorSpec, hookimpl


@hookimpl
def quire_speculators() -> Iterable[SpeculatorSpec]:
    """One, for every device."""
    yield SpeculatorSpec(
        name="draft",
        api=1,
        target="quire_speculator_draft.speculator:DraftSpeculator",
        takes_model=True,
        summary="A smaller model of the same vocabulary proposes, one token after another",
    )
