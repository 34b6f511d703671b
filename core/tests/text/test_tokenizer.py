"""Loading and using a tokenizer; a hostile repository runs no code (T4)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer

from quire.contracts import ModelFiles
from quire.errors import CheckpointError, InvalidRequestError
from quire.text import Tokenizer, load_tokenizer

Save = Callable[..., Path]
TokenizerOf = Callable[[str], Tokenizer]

CANARY = "import pathlib; pathlib.Path({path!r}).write_text('ran')\nclass Evil: pass\n"


def test_round_trip(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("byte_level")
    ids = tokenizer.encode("Hello 你好")
    assert tokenizer.piece(ids[0]) == "<s>"
    assert tokenizer.encode("Hello 你好", add_special_tokens=False) == ids[1:]
    assert tokenizer.decode(ids) == "Hello 你好"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>Hello 你好"
    assert tokenizer.decode([len(tokenizer) + 5]) == ""


def test_a_lone_surrogate_is_the_requests_fault(tokenizer_of: TokenizerOf) -> None:
    with pytest.raises(InvalidRequestError, match="at character 2"):
        tokenizer_of("byte_level").encode("ab\ud800")


def test_special_tokens(save_tokenizer: Save) -> None:
    tokenizer = load_tokenizer(save_tokenizer(bos_token="<s>", eos_token="</s>"))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        tokenizer.token_id("<s>"),
        tokenizer.token_id("</s>"),
    )
    assert tokenizer.special_ids == {tokenizer.token_id("<s>"), tokenizer.token_id("</s>")}
    assert tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    assert len(tokenizer) == tokenizer.vocab_size == len(tokenizer.hf)
    assert tokenizer.chat_template is None


@pytest.mark.parametrize("family", ["byte_level", "byte_fallback"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"add_bos_token": False, "add_eos_token": True},
        {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True},
        {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False},
    ],
)
def test_encodes_what_transformers_encodes(save_tokenizer: Save, family: str, config: dict[str, Any]) -> None:
    """tokenizer.json decides, about BOS and EOS too, whatever the configuration beside it says.

    (Llama's class in transformers 5 makes its pipeline anew, and differs right after a special token
    inside a text.)
    """
    directory = save_tokenizer(family, bos_token="<s>", eos_token="</s>", **config)
    text = "good  good 你好 Hello"
    tokenizer = load_tokenizer(directory)
    ids = tokenizer.encode(text)
    assert ids == Backend.from_file(str(directory / "tokenizer.json")).encode(text).ids
    assert tokenizer.piece(ids[0]) == "<s>"
    if config.get("tokenizer_class") != "Qwen2Tokenizer" or family == "byte_level":
        assert ids == AutoTokenizer.from_pretrained(str(directory))(text)["input_ids"]


def test_saved_truncation_and_padding_are_off(save_tokenizer: Save) -> None:
    directory = save_tokenizer()
    path = directory / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    state["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    state["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    path.write_text(json.dumps(state), encoding="utf-8")
    assert 4 < len(load_tokenizer(directory).encode("Hello, world")) < 64


def test_loads_from_model_files(save_tokenizer: Save) -> None:
    directory = save_tokenizer()
    files = ModelFiles(model="m", directory=directory, source="directory")
    assert load_tokenizer(files).encode("a") == load_tokenizer(str(directory)).encode("a")


def test_older_files_are_converted(tmp_path: Path) -> None:
    """vocab.json and merges.txt without a tokenizer.json, as GPT-2 came at first."""
    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3, "Ġ": 4}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("ab a") == [3, 4, 1]


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"No tokenizer in .*tokenizer\.json.*`tokenizer=`"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointError, match="no directory"):
        load_tokenizer(tmp_path / "missing")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"model": 3}', '{"version": "1.0"}'])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_broken_files_are_named(save_tokenizer: Save, name: str, content: str) -> None:
    directory = save_tokenizer()
    (directory / name).write_text(content, encoding="utf-8")
    if name == "tokenizer_config.json" and content.startswith('{"'):
        load_tokenizer(directory)  # odd, but a configuration
        return
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(directory)


def _poison(directory: Path, canary: Path, *, with_json: bool) -> None:
    """Every place from which a repository could have code loaded."""
    code = CANARY.format(path=str(canary))
    for name in (
        "tokenization_evil.py",
        "configuration_evil.py",
        "modeling_evil.py",
        "tokenizer.py",
        "__init__.py",
    ):
        (directory / name).write_text(code, encoding="utf-8")
    nested = directory / "nested"
    nested.mkdir()
    (nested / "evil.py").write_text(code, encoding="utf-8")
    auto = {
        "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"],
        "AutoConfig": "configuration_evil.Evil",
    }
    config = {"tokenizer_class": "Evil", "auto_map": auto, "fast_tokenizer_files": ["tokenizer.json"]}
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = {
        "model_type": "evil",
        "auto_map": {**auto, "AutoModel": "nested.evil.Evil"},
        "tokenizer_class": "Evil",
    }
    (directory / "config.json").write_text(json.dumps(model), encoding="utf-8")
    if not with_json:
        (directory / "tokenizer.json").unlink()
        (directory / "vocab.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize("with_json", [True, False])
def test_a_hostile_repository_runs_no_code(save_tokenizer: Save, tmp_path: Path, with_json: bool) -> None:
    canary = tmp_path / "canary"
    directory = save_tokenizer()
    _poison(directory, canary, with_json=with_json)
    if with_json:
        assert load_tokenizer(directory).decode([72]) != ""
    else:
        with pytest.raises(CheckpointError, match="cannot be converted"):
            load_tokenizer(directory)
    assert not canary.exists()


LOAD = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError("asked the network")
socket.socket.connect = socket.getaddrinfo = refuse
from quire.text import load_tokenizer
load_tokenizer(sys.argv[1])
print("torch" in sys.modules)
"""


def test_a_fresh_optimised_process_runs_no_code_and_asks_no_network(
    save_tokenizer: Save, tmp_path: Path
) -> None:
    """Under `python -O`, from inside the repository, with torch left alone: start-up is to be short."""
    canary = tmp_path / "canary"
    directory = save_tokenizer()
    _poison(directory, canary, with_json=True)
    done = subprocess.run(
        [sys.executable, "-P", "-O", "-c", LOAD, str(directory)],
        cwd=directory, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "False", done.stderr
    assert not canary.exists()


def test_importing_the_package_is_light() -> None:
    code = (
        "import sys, quire.text; print([m for m in ('torch', 'transformers', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
