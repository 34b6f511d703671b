"""Which files are chosen, and which are refused (T4)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.errors import CheckpointError
from quire.weights.sources._files import INDEX, find_weights, is_text_file, select_weights


def index(*shards: object) -> bytes:
    return json.dumps({"weight_map": {f"tensor{n}": shard for n, shard in enumerate(shards)}}).encode()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["model.safetensors", "consolidated.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (["b.safetensors", "a.safetensors", "adapter_model.safetensors"], ["a.safetensors", "b.safetensors"]),
        (["w.safetensors", "sub/w.safetensors", ".hidden.safetensors"], ["w.safetensors"]),
        ([INDEX, "x.safetensors", "y.safetensors", "model.safetensors"], ["x.safetensors", "y.safetensors"]),
    ],
)
def test_chosen(names: list[str], expected: list[str]) -> None:
    data = index("y.safetensors", "x.safetensors", "y.safetensors")
    assert list(select_weights(names, lambda: data, "m")) == expected


def test_a_torch_file_is_chosen_where_it_is_asked_for_and_nothing_else_is_there() -> None:
    names = ["config.json", "pytorch_model.bin", "training_args.bin"]
    assert select_weights(names, lambda: b"", "m", torch_files=True) == ("pytorch_model.bin",)
    both = [*names, "model.safetensors"]
    assert select_weights(both, lambda: b"", "m", torch_files=True) == ("model.safetensors",)
    with pytest.raises(CheckpointError, match="runs whatever code"):
        select_weights(["training_args.bin"], lambda: b"", "m", torch_files=True)


@pytest.mark.parametrize(
    ("names", "part"),
    [
        ([], r"no \.safetensors file"),
        (["pytorch_model.bin"], "runs whatever code"),
        (["model.pth", "README.md"], "runs whatever code"),
        (["model.gguf"], "not read"),
        (["consolidated.safetensors"], "Mistral's own layout"),
        (["adapter_model.safetensors"], "no weights"),
    ],
)
def test_refused(names: list[str], part: str) -> None:
    with pytest.raises(CheckpointError, match=part):
        select_weights(names, lambda: b"", "m")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"weight_map": 3}',
        b'{"weight_map": {}}',
        b'{"weight_map": {"a": ["x"]}}',
        b"[" * 100_000,
        index("../x.safetensors"),
        index("/etc/x.safetensors"),
        index("sub\\x.safetensors"),
        index("x.bin"),
        index(3),
        index("x.safetensors", None),
        index("missing.safetensors"),
    ],
)
def test_a_broken_or_lying_index_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"'m'"):
        select_weights([INDEX, "x.safetensors", "x.bin"], lambda: data, "m")


def test_listing_a_directory(tmp_path: Path) -> None:
    for name in ("x.safetensors", "y.safetensors", "z.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_weights(tmp_path)] == [
        "x.safetensors",
        "y.safetensors",
        "z.safetensors",
    ]
    (tmp_path / INDEX).write_bytes(index("y.safetensors"))
    assert find_weights(tmp_path) == (tmp_path / "y.safetensors",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("config.json", True),
        ("tokenizer.model", True),
        ("merges.txt", True),
        ("chat_template.jinja", True),
        ("additional_chat_templates/rag.jinja", True),
        ("qwen.tiktoken", True),
        (INDEX, False),  # comes with the weights
        ("pytorch_model.bin.index.json", False),
        ("onnx/config.json", False),
        ("../config.json", False),
        ("..\\config.json", False),
        ("/etc/config.json", False),
        ("additional_chat_templates/../../x.jinja", False),
        ("modeling.py", False),
        ("README.md", False),
    ],
)
def test_text_files(name: str, expected: bool) -> None:
    assert is_text_file(name) is expected
