"""Models from the Hugging Face hub, through `huggingface_hub`.

Which files to fetch is decided before any weight is; HF_HOME, HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE are the library's and mean here what they mean elsewhere. Runs no code from a
repository and keeps its Python files out of the cache.
"""

from __future__ import annotations

import errno
import glob
import logging
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quire.contracts.source import ModelFiles, ModelRequest
from quire.errors import CheckpointError, ModelError, ModelNotFoundError
from quire.weights.config_files import QUANTIZATION_FILES
from quire.weights.sources._files import INDEX, TORCH_FILE, find_weights, is_text_file, select_weights
from quire.weights.sources._hub_headers import all_cached, write_headers

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["HubSource"]

logger = logging.getLogger(__name__)

# What a disk answers; everything else that is no answer of the hub is the network's.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})


class HubSource:
    """Any name of the form `name` or `organisation/name`."""

    name = "hub"

    def resolve(self, request: ModelRequest) -> ModelFiles | None:
        """See `ModelSource.resolve`. None if the name cannot be a hub id.

        Without a network, or when the hub is down, what is in the cache serves.

        Raises:
            ModelError: the hub refuses or fails; the message has the way out.
        """
        return self._resolve(request, self._fetched)

    def resolve_headers(self, request: ModelRequest, directory: Path) -> ModelFiles | None:
        """See `HeaderSource.resolve_headers`. Without a network the cache must hold the whole model.

        Raises:
            ModelError: as `resolve`.
        """
        return self._resolve(request, lambda request: self._described(request, directory))

    def _resolve(self, request: ModelRequest, fetch: Callable[[ModelRequest], Path]) -> ModelFiles | None:
        """Where `fetch`, or without a network the cache, has the model."""
        from huggingface_hub import is_offline_mode
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported lazily

        try:
            validate_repo_id(request.model)
        except HFValidationError:
            return None
        if is_offline_mode():
            directory = self._cached(request, "HF_HUB_OFFLINE is set. Unset it to fetch the model.")
        else:
            try:
                directory = fetch(request)
            except ModelError:
                raise
            except HfHubHTTPError as error:
                if _status(error) < 500:
                    raise _refusal(request, error) from error
                directory = self._fall_back(request, error)
            # Whatever the transport raises: no route, no name, a timeout, a connection cut short.
            except Exception as error:
                directory = self._fall_back(request, error)
        return ModelFiles(
            model=request.model,
            directory=directory,
            source=self.name,
            revision=directory.name,  # the cache names a snapshot by its commit
            weights=()
            if request.tokenizer_only
            else find_weights(directory, torch_files=request.torch_files),
        )

    def _described(self, request: ModelRequest, directory: Path) -> Path:
        """Write down, in a folder named as the cache would, what can be known without the weights."""
        from huggingface_hub import HfApi

        info = HfApi().model_info(request.model, revision=request.revision)
        names = {sibling.rfilename for sibling in info.siblings or ()}
        commit = str(info.sha)
        weights = _weights(request, names)
        # The headers of a torch file are spread over it.
        if TORCH_FILE in weights or all_cached(request.model, commit, weights):
            return self._fetched(request)
        described_by = ("config.json", "generation_config.json", INDEX, *QUANTIZATION_FILES)
        texts = [name for name in described_by if name in names]
        snapshot = _snapshot(request, texts)
        described = directory / commit
        described.mkdir()
        for name in texts:
            shutil.copy(snapshot / name, described / name)
        for name in weights:
            write_headers(request.model, commit, name, described / name)
        return described

    def _fetched(self, request: ModelRequest) -> Path:
        """Fetch what is needed and not in the cache yet."""
        from huggingface_hub import HfApi

        info = HfApi().model_info(request.model, revision=request.revision)
        names = {sibling.rfilename for sibling in info.siblings or ()}
        wanted = sorted(filter(is_text_file, names))
        if request.tokenizer_only:
            if not wanted:
                raise ModelNotFoundError(f"The hub's {request.model!r} has no tokenizer files.")
            return _snapshot(request, wanted)
        weights = _weights(request, names)
        index = INDEX if INDEX in names else None
        return _snapshot(request, [*wanted, *([index] if index else []), *weights])

    def _cached(self, request: ModelRequest, reason: str) -> Path:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        needed = "tokenizer_config.json" if request.tokenizer_only else "config.json"
        try:
            directory = snapshot_download(
                request.model, revision=request.revision, local_files_only=True, allow_patterns=[needed]
            )
        except LocalEntryNotFoundError as error:
            at = f" at revision {request.revision!r}" if request.revision else ""
            raise ModelNotFoundError(
                f"{request.model!r}{at} is not in the Hugging Face cache, and the hub was not asked or "
                f"not reached: {reason}"
            ) from error
        return Path(directory)

    def _fall_back(self, request: ModelRequest, error: Exception) -> Path:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            raise ModelError(
                f"{request.model!r} cannot be written into the Hugging Face cache: {_first_line(error)}. "
                "Make room, or set HF_HOME to another place."
            ) from error
        reason = f"{type(error).__name__}: {_first_line(error)}. Check the network, HF_ENDPOINT and proxies."
        directory = self._cached(request, reason)
        try:
            if not request.tokenizer_only:
                find_weights(directory, torch_files=request.torch_files)
        except CheckpointError as missing:
            raise ModelNotFoundError(
                f"{request.model!r} is in the Hugging Face cache only in part, and the hub was not "
                f"reached: {reason}"
            ) from missing
        logger.warning("The hub was not reached (%s); %s comes from the cache.", reason, request.model)
        return directory


def _weights(request: ModelRequest, names: Collection[str]) -> tuple[str, ...]:
    """The safetensors files among a repository's files that make up the model."""
    if "config.json" not in names:
        raise ModelNotFoundError(
            f"The hub's {request.model!r} has no config.json, so it is no model that can be served."
        )

    def read_index() -> bytes:
        return (_snapshot(request, [INDEX]) / INDEX).read_bytes()

    return select_weights(names, read_index, request.model, torch_files=request.torch_files)


def _snapshot(request: ModelRequest, names: Sequence[str]) -> Path:
    """Fetch exactly these files at the revision; returns the snapshot's directory."""
    from huggingface_hub import snapshot_download

    options: dict[str, Any] = {} if request.show_progress else {"tqdm_class": _silent_tqdm()}
    return Path(
        snapshot_download(
            request.model,
            revision=request.revision,
            allow_patterns=[glob.escape(name) for name in names],
            **options,
        )
    )


def _silent_tqdm() -> type[Any]:
    from huggingface_hub.utils.tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

    return Silent


def _refusal(request: ModelRequest, error: HfHubHTTPError) -> ModelError:
    """What a 4xx answer means for the user."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    model = request.model
    if isinstance(error, GatedRepoError):
        return ModelError(
            f"{model!r} is gated: ask for access on its page on the hub, then give your token as HF_TOKEN "
            "(or run `hf auth login`)."
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFoundError(
            f"{model!r} has no revision {request.revision!r}. Name one of its branches, tags or commits, "
            "or leave it out."
        )
    if isinstance(error, RepositoryNotFoundError):
        return ModelNotFoundError(
            f"The hub has no model {model!r}, or it is private. Check the spelling; for a private model give "
            "your token as HF_TOKEN. For a local model, name its directory."
        )
    return ModelError(
        f"The hub refuses {model!r} with status {_status(error)}: {_first_line(error)}. "
        "Check that your token (HF_TOKEN) is valid and may read it."
    )


def _status(error: HfHubHTTPError) -> int:
    response = getattr(error, "response", None)
    return int(getattr(response, "status_code", 0) or 0)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no message").splitlines()[0].rstrip(".")
