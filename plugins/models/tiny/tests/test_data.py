"""What is bundled: two whole models of one vocabulary and a head, small enough to ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire.contracts import ModelRequest
from quire.text import load_tokenizer, render_chat
from quire_models_tiny.source import DATA, DRAFT, EAGLE, TinySource

MAX_WEIGHT_BYTES = 10_000_000


@pytest.mark.parametrize(("name", "folder"), [("tiny", DATA), ("tiny-draft", DRAFT)])
def test_the_model_is_whole(name: str, folder: Path) -> None:
    files = TinySource().resolve(ModelRequest(model=name))
    assert files is not None
    (weights,) = files.weights
    assert weights.parent == folder
    assert 0 < weights.stat().st_size <= MAX_WEIGHT_BYTES
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] >= 2048


def test_the_draft_proposes_tokens_that_its_target_knows() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (DRAFT / name).read_bytes() == (DATA / name).read_bytes()
    target, draft = (json.loads((folder / "config.json").read_text()) for folder in (DATA, DRAFT))
    for key in ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id"):
        assert draft[key] == target[key]
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (DRAFT, DATA)]
    assert 5 * sizes[0] < sizes[1]


def test_the_head_is_one_for_its_target() -> None:
    target, head = (json.loads((folder / "config.json").read_text()) for folder in (DATA, EAGLE))
    for key in ("vocab_size", "hidden_size", "max_position_embeddings"):
        assert head[key] == target[key]
    assert head["architectures"] == ["LlamaForCausalLMEagle3"]
    assert max(head["eagle_config"]["eagle_aux_hidden_state_layer_ids"]) < target["num_hidden_layers"]
    assert (EAGLE / "model.safetensors").stat().st_size < 1_500_000


def test_the_tokenizer_loads_and_chats() -> None:
    tokenizer = load_tokenizer(DATA)
    code = 'def f(x):\n    """Return x — doubled."""\n    return 2 * x\n'
    assert tokenizer.decode(tokenizer.encode(code)) == code
    assert tokenizer.eos_token_id is not None
    assert "import os" in render_chat(tokenizer, [{"role": "user", "content": "import os"}])
