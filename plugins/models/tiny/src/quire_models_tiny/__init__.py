"""The bundled models: small ones for demos and tests without a network."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import ModelSourceSpec, hookimpl


@hookimpl
def quire_model_sources() -> Iterable[ModelSourceSpec]:
    """Between local directories, which win over it, and the hub."""
    yield ModelSourceSpec(
        name="tiny",
        api=1,
        target="quire_models_tiny.source:TinySource",
        names=frozenset({"tiny", "tiny-draft", "tiny-eagle"}),
        priority=50,
        summary="The bundled models `tiny` (Python source text, 4.2 M parameters) and, to propose to it, "
        "`tiny-draft` and `tiny-eagle` (0.7 M each)",
    )
