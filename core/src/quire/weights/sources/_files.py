"""Which files of a model are needed, decided from their names, and that they lie where the model is.

Knows names and the safetensors index; opens no weights. Only safetensors are chosen, unless a request says
otherwise: the other usual formats are pickles, and unpickling runs code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from quire.errors import CheckpointError

__all__ = ["INDEX", "TORCH_FILE", "find_weights", "index_bytes", "is_text_file", "select_weights"]

INDEX = "model.safetensors.index.json"
MAX_INDEX_BYTES = 100_000_000
_SINGLE = "model.safetensors"
TORCH_FILE = "pytorch_model.bin"
"""What `torch.save` wrote; read as a description, and only for models that are published so."""
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_OTHER = (".gguf", ".h5", ".msgpack", ".onnx", ".npz", ".tflite")
_TEXT_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken")
_TEXT_NAMES = ("vocab.txt", "merges.txt", "sentencepiece.bpe.model")


def is_text_file(name: str) -> bool:
    """Whether a repository's file is configuration or belongs to the tokenizer.

    Only files at the top and the named chat templates; so also none that climbs out of the directory.
    """
    if "\\" in name or name.startswith("."):
        return False
    folder, _, base = name.rpartition("/")
    if folder:
        return folder == "additional_chat_templates" and base.endswith(".jinja")
    return (base.endswith(_TEXT_SUFFIXES) or base in _TEXT_NAMES) and not base.endswith(".index.json")


def select_weights(
    names: Collection[str], read_index: Callable[[], bytes], where: str, *, torch_files: bool = False
) -> tuple[str, ...]:
    """The safetensors files that make up the model, sorted.

    The index decides where there is one; else model.safetensors; else all that are neither an
    adapter nor a second copy in another layout (`consolidated*`).

    Args:
        names: files there are, relative to the model's directory.
        read_index: gives the bytes of `INDEX`; called only if it is among `names`.
        where: the directory or repository, for messages.
        torch_files: see `ModelRequest`.

    Raises:
        CheckpointError: no safetensors, a broken index, or one that names files that are not there.
    """
    if INDEX in names:
        return _from_index(read_index(), names, where)
    if _SINGLE in names:
        return (_SINGLE,)
    found = sorted(
        name
        for name in names
        if name.endswith(".safetensors")
        and "/" not in name
        and not name.startswith((".", "adapter_", "consolidated"))
    )
    if found:
        return tuple(found)
    if torch_files and TORCH_FILE in names:
        return (TORCH_FILE,)
    raise CheckpointError(_why_none(names, where))


def find_weights(directory: Path, *, torch_files: bool = False) -> tuple[Path, ...]:
    """The safetensors files of a checkpoint directory, sorted; chosen as by `select_weights`.

    Raises:
        CheckpointError: there are none (and why, if there are pickled weights), the index is broken or names
            what is missing, or a file lies outside the directory.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory.")
    names = {path.name for path in directory.iterdir() if path.is_file()}
    chosen = select_weights(names, lambda: index_bytes(directory), str(directory), torch_files=torch_files)
    return tuple(_inside(directory, name) for name in chosen)


def index_bytes(directory: Path) -> bytes:
    """The index of a checkpoint directory that has one.

    Raises:
        CheckpointError: it is absurdly large, or a link to elsewhere.
    """
    path = _inside(directory, INDEX)
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_INDEX_BYTES} bytes, which no index needs.")
    return path.read_bytes()


def _inside(directory: Path, name: str) -> Path:
    """The file, if it exists and is truly kept where the checkpoint is.

    The hub's cache links a snapshot's files to `../../blobs` of the same repository: that is inside, too.
    """
    path = directory / name
    if not path.is_file():
        raise CheckpointError(f"{directory} lacks the file {name}.")
    homes = [directory.resolve()]
    if homes[0].parent.name == "snapshots":
        homes.append(homes[0].parent.parent / "blobs")
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise CheckpointError(f"{path} is a link to a place outside its directory, which is not followed.")
    return path


def _from_index(data: bytes, names: Collection[str], where: str) -> tuple[str, ...]:
    try:
        index: Any = json.loads(data)
        shards = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{INDEX} of {where!r} is broken ({type(error).__name__}: {error}): it must hold a JSON object "
            "with a 'weight_map' from tensor names to file names. Fetch it again."
        ) from error
    for shard in shards:
        if not _is_plain_name(shard):
            raise CheckpointError(
                f"{INDEX} of {where!r} names {shard!r}: only .safetensors files beside the index are read."
            )
    if missing := [shard for shard in shards if shard not in names]:
        raise CheckpointError(
            f"{len(missing)} of the {len(shards)} weight files of {where!r} are missing, the first is "
            f"{missing[0]!r}. Fetch them again: the download was not complete."
        )
    if not shards:
        raise CheckpointError(f"{INDEX} of {where!r} names no weight files. Fetch it again.")
    return tuple(shards)


def _is_plain_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and not name.startswith(".")
        and not any(char in name for char in "/\\\0")
    )


def _why_none(names: Collection[str], where: str) -> str:
    top = sorted(name for name in names if "/" not in name)
    if pickled := [name for name in top if name.endswith(_PICKLED)]:
        return (
            f"{where!r} has its weights only as pickles ({pickled[0]}), and reading a pickle runs whatever "
            "code is in it. Only safetensors are read: look for a variant of the model in safetensors, or "
            "convert it where you trust it."
        )
    if other := [name for name in top if name.endswith(_OTHER)]:
        return f"{where!r} has no safetensors weights; {other[0]!r} is of a format that is not read."
    if consolidated := [name for name in top if name.startswith("consolidated")]:
        return (
            f"{where!r} has its weights only as {consolidated[0]!r}, in Mistral's own layout. "
            "Use the Hugging Face variant of the model."
        )
    return f"{where!r} has no weights: there is no .safetensors file in it."
