"""The bundled model "tiny": a small language model for demos and tests without a network."""

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
        names=frozenset({"tiny"}),
        priority=50,
        summary="The bundled model `tiny`: Python source text, some millions of parameters",
    )
