"""Asks the model sources in order. Knows no source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from quire.contracts.source import HeaderSource, ModelFiles, ModelRequest, ModelSource
from quire.errors import ModelNotFoundError

__all__ = ["resolve_model"]


def resolve_model(
    sources: Sequence[ModelSource], request: ModelRequest, *, headers_in: Path | None = None
) -> ModelFiles:
    """The files of a model from the first source that has it.

    Args:
        sources: in the order in which they are asked.
        request: the model as the user names it.
        headers_in: an empty directory, if headers will do: sources that can fetch no weights then.

    Raises:
        ModelNotFoundError: no source has it; lists who was asked.
        CheckpointError: a source has it, but it cannot be used.
    """
    passed: list[str] = []
    for source in sources:
        try:
            if headers_in is not None and isinstance(source, HeaderSource):
                files = source.resolve_headers(request, headers_in)
            else:
                files = source.resolve(request)
        except ModelNotFoundError as error:
            if not passed:
                raise
            raise ModelNotFoundError(f"{error} (Not known to: {', '.join(passed)}.)") from error
        if files is not None:
            return files
        passed.append(str(getattr(source, "name", type(source).__name__)))
    raise ModelNotFoundError(
        f"No model source knows {request.model!r}. "
        + (f"Asked: {', '.join(passed)}. " if passed else "No model source is installed. ")
        + "Name a local directory, a bundled model or a Hugging Face id such as 'Qwen/Qwen3-0.6B'."
    )
