"""Answers to the name `tiny` with the files inside this package."""

from __future__ import annotations

from pathlib import Path

from quire.contracts import ModelFiles, ModelRequest
from quire.errors import CheckpointError, ModelNotFoundError

__all__ = ["DATA", "TinySource"]

DATA = Path(__file__).parent / "data"
_NEEDED = ("config.json", "tokenizer.json", "model.safetensors")


class TinySource:
    """The bundled model."""

    name = "tiny"

    def resolve(self, request: ModelRequest) -> ModelFiles | None:
        """See `ModelSource.resolve`. None for any other name than `tiny`."""
        if request.model != "tiny":
            return None
        if request.revision is not None:
            raise ModelNotFoundError(
                f"revision {request.revision!r} was asked for, but the bundled model 'tiny' has none. "
                "Leave `revision` out."
            )
        for name in _NEEDED:
            if not (DATA / name).is_file():
                raise CheckpointError(
                    f"The bundled model is incomplete: {name} is missing. Install quire-models-tiny again."
                )
        return ModelFiles(
            model="tiny",
            directory=DATA,
            source=self.name,
            weights=() if request.tokenizer_only else (DATA / "model.safetensors",),
        )
