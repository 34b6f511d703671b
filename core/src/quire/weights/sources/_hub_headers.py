"""Headers of safetensors files on the hub, fetched without the data behind them.

Knows the file format's frame (https://huggingface.co/docs/safetensors) and huggingface_hub; whether a
header is sound is judged where files are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from quire.errors import CheckpointError

__all__ = ["all_cached", "write_headers"]


def all_cached(model: str, commit: str, names: Iterable[str]) -> bool:
    """Whether the Hugging Face cache holds these files of a commit."""
    from huggingface_hub import try_to_load_from_cache

    return all(isinstance(try_to_load_from_cache(model, name, revision=commit), str) for name in names)


def write_headers(model: str, commit: str, name: str, path: Path) -> None:
    """Write a file's header to `path`, followed by a hole of its data's size, which takes no disk.

    Raises:
        CheckpointError: what the hub has there is no safetensors file.
        OSError, httpx errors: what the transport and the disk raise.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import SafetensorsParsingError

    try:
        found = HfApi().parse_safetensors_file_metadata(model, name, revision=commit)
    except SafetensorsParsingError as error:
        raise CheckpointError(f"{name} of {model!r} is no safetensors file: {error}") from error
    header = {
        tensor: {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": list(info.data_offsets)}
        for tensor, info in found.tensors.items()
    }
    text = json.dumps(header).encode()
    size = 8 + len(text) + max((info.data_offsets[1] for info in found.tensors.values()), default=0)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(size)
