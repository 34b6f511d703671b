"""The JSON files that describe a model: config.json, generation_config.json, older tools' own.

Knows their forms and which keys mean a context length; knows no architecture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from quire.contracts.source import ModelFiles
from quire.errors import CheckpointError

__all__ = [
    "QUANTIZATION_FILES",
    "GenerationDefaults",
    "derive_max_model_len",
    "load_generation_config",
    "load_model_config",
]

QUANTIZATION_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Files in which tools kept what is now `quantization_config` of config.json, and the `quant_method` that
was meant by those that do not say."""

_COMPRESSION = "compression_config"
"""What SparseML and early llm-compressor called `quantization_config`."""

# Names under which architectures keep the number of positions they were trained for.
_LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Scalings whose max_position_embeddings is the scaled length already.
_LENGTH_IS_SCALED = frozenset({"default", "llama3", "longrope", "su", "mrope"})
# Sampling defaults that are honoured: name there -> name in SamplingParams.
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
}
_INTEGERS = frozenset({"top_k", "max_new_tokens"})


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What a model's files say about generating with it.

    Attributes:
        eos_token_ids: ids that end a generation.
        bos_token_id, pad_token_id: None if not given.
        sampling: defaults by their names in `SamplingParams`; only what the file sets. `do_sample` is not
            looked at, as in vLLM: a file that sets no temperature leaves 1.0.
    """

    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    sampling: Mapping[str, float | int] = field(default_factory=dict)


def load_model_config(files: ModelFiles, hf_overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """config.json as a plain mapping, with the user's overrides laid over it.

    Mappings within are merged key by key; any other value replaces what was there. Where config.json has no
    `quantization_config`, its older `compression_config` takes its place, or that of an older file
    (`QUANTIZATION_FILES`).

    Raises:
        CheckpointError: a file is no strict JSON, or no object; config.json is missing; or its
            `quantization_config` is no object.
    """
    config = _read_object(files.directory / "config.json")
    _adopt_compression(config, files.directory)
    if config.get("quantization_config") is None:
        for name, method in QUANTIZATION_FILES.items():
            path = files.directory / name
            if path.is_file():
                settings = _read_object(path)
                config["quantization_config"] = settings | {
                    "quant_method": settings.get("quant_method") or method
                }
                break
    merged = _merge(config, hf_overrides or {})
    quantization = merged.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise CheckpointError(
            f"quantization_config in {files.directory / 'config.json'} must be an object, "
            f"not {type(quantization).__name__}."
        )
    return merged


def load_generation_config(files: ModelFiles, config: Mapping[str, Any] | None = None) -> GenerationDefaults:
    """generation_config.json, or nothing but defaults where there is none.

    Args:
        files: the model's.
        config: its config.json; gives the token ids that generation_config.json does not.

    Raises:
        CheckpointError: the file is no strict JSON, or a value in it is of the wrong type.
    """
    path = files.directory / "generation_config.json"
    given = _read_object(path) if path.is_file() else {}
    ids = {}
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        origin, values = path, given
        if given.get(name) is None and config is not None:
            origin, values = files.directory / "config.json", dict(config)
        ids[name] = _token_ids(values.get(name), f"{name} in {origin}")
    return GenerationDefaults(
        eos_token_ids=ids["eos_token_id"],
        bos_token_id=next(iter(ids["bos_token_id"]), None),
        pad_token_id=next(iter(ids["pad_token_id"]), None),
        sampling={
            target: _number(given[name], f"{name} in {path}", integer=name in _INTEGERS)
            for name, target in _SAMPLING.items()
            if given.get(name) is not None
        },
    )


def derive_max_model_len(config: Mapping[str, Any]) -> int:
    """Longest sequence the model was made for, tokens.

    The smallest of the lengths that config.json gives, times the factor of its rotary scaling.
    For yarn the factor is of `original_max_position_embeddings`; llama3 and longrope state the scaled
    length themselves. A sliding window limits what a token sees, not how long a sequence is.
    The rules are vLLM's, so that the same checkpoint has the same length.

    Raises:
        CheckpointError: no length is given, or a value is of the wrong type.
    """
    lengths = [
        int(_number(config[key], f"{key} in config.json", integer=True))
        for key in _LENGTH_KEYS
        if config.get(key) is not None
    ]
    if not lengths:
        raise CheckpointError(
            "config.json gives no context length (max_position_embeddings or one of its other names). "
            "Set `max_model_len`."
        )
    length: float = min(lengths)
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise CheckpointError(f"rope_scaling in config.json must be an object, not {type(rope).__name__}.")
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _LENGTH_IS_SCALED:
        if kind == "yarn" and rope.get("original_max_position_embeddings") is not None:
            length = _number(
                rope["original_max_position_embeddings"],
                "original_max_position_embeddings in config.json",
                integer=True,
            )
        length *= _number(rope.get("factor", 1.0), "the factor of rope_scaling in config.json")
    if length < 1:
        raise CheckpointError(f"config.json gives a context length of {length:g}. Set `max_model_len`.")
    return int(length)


def _read_object(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON value")

    try:
        value = json.loads(path.read_bytes(), parse_constant=refuse)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}. Fetch or correct the file.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(value).__name__}.")
    return value


def _adopt_compression(config: dict[str, Any], directory: Path) -> None:
    """Bring older forms of compressed-tensors' settings under `quantization_config`, all in one table."""
    older = config.get(_COMPRESSION)
    if config.get("quantization_config") is None and older is not None:
        if not isinstance(older, dict):
            raise CheckpointError(
                f"{_COMPRESSION} in {directory / 'config.json'} must be an object, "
                f"not {type(older).__name__}."
            )
        method = older.get("quant_method") or "compressed-tensors"
        config["quantization_config"] = older | {"quant_method": method}
    if isinstance(settings := config.get("quantization_config"), dict):
        config["quantization_config"] = _flat(settings)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that hold settings: compressed-tensors wrote them beside those of sparsity for a while.

    `quant_method` was outside then; without any quantization inside, only sparsity is left.
    """
    if "quantization_config" not in settings:
        return settings
    outside = {key: value for key, value in settings.items() if key != "quantization_config"}
    inside = settings["quantization_config"]
    return outside | inside if isinstance(inside, dict) else outside


def _merge(base: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def _token_ids(value: Any, where: str) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    for id_ in values:
        if isinstance(id_, bool) or not isinstance(id_, int) or id_ < 0:
            raise CheckpointError(f"{where} must be a token id or a list of them, not {value!r}.")
    return tuple(dict.fromkeys(values))


def _number(value: Any, where: str, *, integer: bool = False) -> float | int:
    if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
        raise CheckpointError(f"{where} must be {'an integer' if integer else 'a number'}, not {value!r}.")
    return value
