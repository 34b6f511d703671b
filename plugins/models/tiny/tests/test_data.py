"""What is bundled: a whole model, small enough to ship."""

from __future__ import annotations

import json

from quire.contracts import ModelRequest
from quire.text import load_tokenizer, render_chat
from quire_models_tiny.source import DATA, TinySource

MAX_WEIGHT_BYTES = 10_000_000


def test_the_model_is_whole() -> None:
    files = TinySource().resolve(ModelRequest(model="tiny"))
    assert files is not None
    (weights,) = files.weights
    assert 0 < weights.stat().st_size <= MAX_WEIGHT_BYTES
    config = json.loads((DATA / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] >= 2048


def test_the_tokenizer_loads_and_chats() -> None:
    tokenizer = load_tokenizer(DATA)
    code = 'def f(x):\n    """Return x — doubled."""\n    return 2 * x\n'
    assert tokenizer.decode(tokenizer.encode(code)) == code
    assert tokenizer.eos_token_id is not None
    assert "import os" in render_chat(tokenizer, [{"role": "user", "content": "import os"}])
