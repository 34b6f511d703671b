"""The bundled models through the whole engine: they know Python, and their records are the tool's recipes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from quire import LLM, SamplingParams

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "plugins" / "models" / "tiny" / "src" / "quire_models_tiny"
PYTHON = '''class Stack:
    """A list with another name."""

    def __init__(self, items=None):
        self._items = list(items or ())

    def __len__(self):
        return len(self._items)
'''
NOT_PYTHON = (
    "zxq jklw vvrt ooieu 9932 qqpo wlekrj asdkfj zmxncb qpwoei rutyal skdjfh gxmznc bvq 00193 plmokn ijb"
)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("tiny", show_progress=False, kv_cache_memory_bytes="32MiB")


def loss(llm: LLM, text: str) -> float:
    """Mean negative log likelihood per character."""
    params = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0.0)
    output = llm.generate(text, params, use_tqdm=False)[0]
    assert output.prompt_logprobs is not None
    entries = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    return -sum(entry[token].logprob for token, entry in entries if entry is not None) / len(text)


def test_it_expects_python(llm: LLM) -> None:
    assert loss(llm, PYTHON) < 0.75
    assert loss(llm, NOT_PYTHON) > 2 * loss(llm, PYTHON)


def test_the_draft_model_expects_it_too(llm: LLM) -> None:
    with LLM("tiny-draft", show_progress=False, kv_cache_memory_bytes="16MiB") as draft:
        assert loss(llm, PYTHON) < loss(draft, PYTHON) < 1.1
        assert loss(draft, NOT_PYTHON) > 2 * loss(draft, PYTHON)


def test_it_chats_within_its_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Who are you?"}]
    output = llm.chat(messages, SamplingParams(temperature=0.0, max_tokens=40), use_tqdm=False)[0]
    assert "Python standard library" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("name", "folder"), [("tiny", "data"), ("tiny-draft", "draft"), ("tiny-eagle", "eagle")]
)
def test_the_record_is_the_recipe(name: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from tiny_model.presets import PRESETS, PUBLISHED

    record = json.loads((PACKAGE / folder / "training.json").read_text())
    assert record["preset"] == json.loads(json.dumps(asdict(PRESETS[name])))  # tuples become lists
    assert record["heldout"]["loss"] == PUBLISHED[name].loss
