"""The model-source contract: from the name a user writes to files on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from quire.contracts.base import PluginSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSourceSpec(PluginSpec):
    """Description of a model source; `target` is a class that fulfils `ModelSource`.

    Sources are asked in order of priority; the first that answers wins.

    Attributes:
        names: the model names it serves; empty means that any name may be its own, and it is asked.
    """

    names: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        PluginSpec.__post_init__(self)
        object.__setattr__(self, "names", frozenset(self.names))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """A model as the user names it.

    Attributes:
        model: path, bundled name or hub id.
        revision: branch, tag or commit; None for the default.
        tokenizer_only: fetch no weights: the tokenizer, and configuration if there is any.
        show_progress: draw progress bars on long work.
        torch_files: `pytorch_model.bin` will do where there are no safetensors.
    """

    model: str
    revision: str | None = None
    tokenizer_only: bool = False
    show_progress: bool = True
    torch_files: bool = False


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model's files are.

    Attributes:
        model: the name it was asked by.
        directory: local directory with config.json and, unless only the tokenizer was asked for, weights.
        source: name of the source that answered, for the start-up report.
        revision: the commit that was resolved, where the source has such a thing.
        weights: safetensors files, sorted, or one torch file; empty for `tokenizer_only`.
    """

    model: str
    directory: Path
    source: str
    revision: str | None = None
    weights: tuple[Path, ...] = field(default=())


@runtime_checkable
class ModelSource(Protocol):
    """Finds, and where needed fetches, a model's files. Runs no code from them."""

    def resolve(self, request: ModelRequest) -> ModelFiles | None:
        """The files of `request.model`, or None if the name is not this source's to serve.

        Raises:
            ModelNotFoundError: the name is this source's, but there is nothing there.
            CheckpointError: what is there cannot be used (e.g. only pickled weights).
        """


@runtime_checkable
class HeaderSource(Protocol):
    """A source that can describe a model without fetching its weights. Optional; `quire plan` asks.

    A source that never fetches has no use for it: what `resolve` answers is as cheap.
    """

    def resolve_headers(self, request: ModelRequest, directory: Path) -> ModelFiles | None:
        """As `ModelSource.resolve`, but weights that are not here yet are described, not fetched.

        Args:
            request: the model as the user names it.
            directory: an empty directory for config.json and safetensors files that have a header and a
                hole of the data's size; the answer is here, or where the model is if that has its weights.
        """
