"""Models in local directories.

Knows paths; never asks the network. It also keeps names that can only be paths from reaching the
sources after it, so that a typing error in a path is not sent to the hub.
"""

from __future__ import annotations

import os
from pathlib import Path

from quire.contracts.source import ModelFiles, ModelRequest
from quire.errors import CheckpointError, ModelNotFoundError
from quire.weights.sources._files import find_weights

__all__ = ["DirectorySource"]


class DirectorySource:
    """A directory of the model's name, relative to the working directory or absolute."""

    name = "directory"

    def resolve(self, request: ModelRequest) -> ModelFiles | None:
        """See `ModelSource.resolve`. None if there is no such directory and the name may be another's."""
        # os.path, unlike pathlib, takes names that no file can have (too long, NUL) for absent.
        path = os.path.expanduser(request.model)
        if os.path.isdir(path):
            return _describe(Path(path), request)
        if os.path.isfile(path):
            raise CheckpointError(
                f"{request.model!r} is a file. Name the directory that holds config.json and the weights."
            )
        if _is_path_like(request.model):
            raise ModelNotFoundError(
                f"There is no directory {path!r}. Check it; relative paths start at {os.getcwd()!r}."
            )
        return None


def _describe(path: Path, request: ModelRequest) -> ModelFiles:
    if request.revision is not None:
        raise ModelNotFoundError(
            f"revision {request.revision!r} was asked for, but {request.model!r} is a local directory, "
            "which has no revisions. Leave `revision` out."
        )
    directory = path.resolve()
    if request.tokenizer_only:
        return ModelFiles(model=request.model, directory=directory, source=DirectorySource.name)
    if not (directory / "config.json").is_file():
        raise CheckpointError(
            f"The directory {str(directory)!r} has no config.json, so it is no model. Name one that has, "
            f"or, if a model from elsewhere was meant, start where there is no directory {request.model!r}."
        )
    return ModelFiles(
        model=request.model,
        directory=directory,
        source=DirectorySource.name,
        weights=find_weights(directory, torch_files=request.torch_files),
    )


def _is_path_like(name: str) -> bool:
    """Whether a name can only have been meant as a path.

    A hub id has at most one slash, and is taken for a path all the same where the part before it
    is a directory here.
    """
    if name.startswith((".", "~", os.sep)) or os.path.isabs(name) or "\\" in name or name.endswith("/"):
        return True
    head, *rest = name.split("/")
    return len(rest) > 1 or (bool(rest) and os.path.isdir(head))
