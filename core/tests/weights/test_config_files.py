"""config.json, generation_config.json and the context length."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.contracts import ModelFiles
from quire.errors import CheckpointError
from quire.weights.config_files import (
    GenerationDefaults,
    derive_max_model_len,
    load_generation_config,
    load_model_config,
)

Write = Callable[..., ModelFiles]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Files with these contents; a mapping is written as JSON."""

    def make(**contents: Any) -> ModelFiles:
        for name, content in contents.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
        return ModelFiles(model="m", directory=tmp_path, source="directory")

    return make


def test_overrides_are_laid_over(write: Write) -> None:
    files = write(config={"a": 1, "rope": {"type": "linear", "factor": 2.0}, "list": [1, 2]})
    merged = load_model_config(files, {"rope": {"factor": 4.0}, "list": [3], "new": {"x": 1}})
    assert merged == {"a": 1, "rope": {"type": "linear", "factor": 4.0}, "list": [3], "new": {"x": 1}}
    assert load_model_config(files)["rope"]["factor"] == 2.0


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", "null", '{"a": NaN}', '{"a": Infinity}', "[" * 100_000, '{"a": 1} x', "\x00"],
)
def test_a_broken_config_is_named(write: Write, content: str) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model_config(write(config=content))


def test_a_missing_config_is_named(write: Write) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_model_config(write())


@pytest.mark.parametrize(("name", "method"), [("quantize_config", "gptq"), ("quant_config", "awq")])
def test_quantization_is_read_from_older_tools_files(write: Write, name: str, method: str) -> None:
    files = write(config={"a": 1}, **{name: {"bits": 4}})
    assert load_model_config(files) == {"a": 1, "quantization_config": {"quant_method": method, "bits": 4}}
    files = write(config={"quantization_config": None}, **{name: {"quant_method": "other"}})
    assert load_model_config(files)["quantization_config"] == {"quant_method": "other"}
    overridden = load_model_config(files, {"quantization_config": {"bits": 8}})
    assert overridden["quantization_config"] == {"quant_method": "other", "bits": 8}
    files = write(config={"quantization_config": {"quant_method": "mine"}}, **{name: {"bits": 4}})
    assert load_model_config(files)["quantization_config"] == {"quant_method": "mine"}


def test_quantization_is_read_from_the_older_key_of_compressed_tensors(write: Write) -> None:
    older = {"config_groups": {"group_0": {}}, "format": "pack-quantized"}
    known = {**older, "quant_method": "compressed-tensors"}
    for method in ({}, {"quant_method": None}, {"quant_method": "compressed-tensors"}):
        config = load_model_config(write(config={"compression_config": {**older, **method}}))
        assert config["quantization_config"] == known
    both = {"compression_config": older, "quantization_config": {"quant_method": "mine"}}
    assert load_model_config(write(config=both))["quantization_config"] == {"quant_method": "mine"}
    with pytest.raises(CheckpointError, match=r"compression_config in .* must be an object, not list"):
        load_model_config(write(config={"compression_config": []}))


@pytest.mark.parametrize("key", ["compression_config", "quantization_config"])
def test_quantization_settings_beside_those_of_sparsity_are_one_table(write: Write, key: str) -> None:
    inside = {"config_groups": {"group_0": {}}, "ignore": ["lm_head"]}
    sparsity = {"format": "sparse-bitmask"}
    nested = {"quant_method": "compressed-tensors", "sparsity_config": sparsity}
    config = load_model_config(write(config={key: {**nested, "quantization_config": inside}}))
    assert config["quantization_config"] == {**nested, **inside}
    config = load_model_config(write(config={key: {**nested, "quantization_config": None}}))
    assert config["quantization_config"] == nested


def test_quantization_settings_are_an_object(write: Write) -> None:
    with pytest.raises(CheckpointError, match=r"quantization_config in .* must be an object, not str"):
        load_model_config(write(config={"quantization_config": "gptq"}))
    with pytest.raises(CheckpointError, match=r"quantize_config\.json must hold a JSON object, not list"):
        load_model_config(write(config={}, quantize_config="[4]"))


def test_generation_defaults(write: Write) -> None:
    files = write(
        generation_config={
            "eos_token_id": [2, 7, 2],
            "bos_token_id": 1,
            "pad_token_id": None,
            "do_sample": False,
            "temperature": 0.6,
            "top_p": None,
            "top_k": 20,
            "max_new_tokens": 99,
            "repetition_penalty": 1,
            "cache_implementation": "hybrid",
        }
    )
    assert load_generation_config(files, {"pad_token_id": 5, "eos_token_id": 9}) == GenerationDefaults(
        eos_token_ids=(2, 7),
        bos_token_id=1,
        pad_token_id=5,
        sampling={"temperature": 0.6, "top_k": 20, "max_tokens": 99, "repetition_penalty": 1},
    )


def test_without_a_generation_config(write: Write) -> None:
    assert load_generation_config(write()) == GenerationDefaults()
    assert load_generation_config(write(), {"eos_token_id": 3}).eos_token_ids == (3,)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"eos_token_id": "2"}, "eos_token_id"),
        ({"eos_token_id": [1, None]}, "eos_token_id"),
        ({"eos_token_id": -1}, "eos_token_id"),
        ({"bos_token_id": True}, "bos_token_id"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_p": [0.9]}, "top_p"),
    ],
)
def test_a_wrong_value_names_field_and_file(write: Write, given: dict[str, Any], part: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{part} in .*generation_config\.json"):
        load_generation_config(write(generation_config=given))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024}, 1024),
        ({"max_position_embeddings": 4096, "seq_length": 2048}, 2048),
        ({"max_position_embeddings": 4096, "sliding_window": 256}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "dynamic", "factor": 1.5}}, 6144),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        ({"max_position_embeddings": 100, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 400),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            131072,
        ),
        ({"max_position_embeddings": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 64),
    ],
)
def test_context_length(config: dict[str, Any], expected: int) -> None:
    assert derive_max_model_len(config) == expected


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ({}, "Set `max_model_len`"),
        ({"max_position_embeddings": "2048"}, "max_position_embeddings"),
        ({"max_position_embeddings": 0}, "length of 0"),
        ({"max_position_embeddings": 64, "rope_scaling": [1]}, "rope_scaling"),
        ({"max_position_embeddings": 64, "rope_scaling": {"type": "linear", "factor": "x"}}, "factor"),
    ],
)
def test_no_usable_context_length(config: dict[str, Any], part: str) -> None:
    with pytest.raises(CheckpointError, match=part):
        derive_max_model_len(config)
