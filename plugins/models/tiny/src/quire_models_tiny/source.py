"""Answers to the names `tiny`, `tiny-draft` and `tiny-eagle` with the files inside this package."""

from __future__ import annotations

from pathlib import Path

from quire.contracts import ModelFiles, ModelRequest
from quire.errors import CheckpointError, ModelNotFoundError

__all__ = ["DATA", "DRAFT", "EAGLE", "TinySource"]

DATA = Path(__file__).parent / "data"
DRAFT = Path(__file__).parent / "draft"
"""Whole checkpoints, both, of one tokenizer.json: tools want all of a model in one folder."""
EAGLE = Path(__file__).parent / "eagle"
"""A head: without `tiny` it says nothing, and what it says is in that one's tokens."""
_NEEDED = ("config.json", "model.safetensors")


class TinySource:
    """The bundled models."""

    name = "tiny"

    def resolve(self, request: ModelRequest) -> ModelFiles | None:
        """See `ModelSource.resolve`. None for any other name than the three."""
        directory = {"tiny": DATA, "tiny-draft": DRAFT, "tiny-eagle": EAGLE}.get(request.model)
        if directory is None:
            return None
        if request.revision is not None:
            raise ModelNotFoundError(
                f"revision {request.revision!r} was asked for, but the bundled model {request.model!r} has "
                "none. Leave `revision` out."
            )
        for name in (*_NEEDED, *(() if directory == EAGLE else ("tokenizer.json",))):
            if not (directory / name).is_file():
                raise CheckpointError(
                    f"The bundled model {request.model!r} is incomplete: {name} is missing. "
                    "Install quire-models-tiny again."
                )
        return ModelFiles(
            model=request.model,
            directory=directory,
            source=self.name,
            weights=() if request.tokenizer_only else (directory / "model.safetensors",),
        )
