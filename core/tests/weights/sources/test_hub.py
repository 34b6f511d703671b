"""The hub source against a hub of our own."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire.contracts import ModelFiles, ModelRequest
from quire.errors import CheckpointError, ModelError, ModelNotFoundError
from quire.weights.checkpoint import Checkpoint
from quire.weights.config_files import load_model_config
from quire.weights.sources.hub import HubSource

Resolve = Callable[..., ModelFiles]

MAIN = "a" * 40
BRANCH = "b" * 40
INDEX = json.dumps({"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}).encode()
# Contents differ: the library does not fetch what it has under another name.
TEXT = {
    "config.json": b'{"a": 1}',
    "generation_config.json": b'{"a": 2}',
    "tokenizer.json": b'{"a": 3}',
    "tokenizer_config.json": b'{"a": 4}',
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
}
UNWANTED = {
    "README.md": b"readme",
    "modeling_evil.py": b"raise SystemExit('ran')",
    "pytorch_model.bin": b"pickle",
    "model.gguf": b"gguf",
    "consolidated.safetensors": b"twice",
    "original/params.json": b'{"a": 5}',
    "original/consolidated.00.pth": b"pth",
    "onnx/config.json": b'{"a": 6}',
    "onnx/model.onnx": b"onnx",
}
SHARDS = {"model.safetensors.index.json": INDEX, "model-1.safetensors": b"1", "model-2.safetensors": b"2"}
NAMES = ["model-1.safetensors", "model-2.safetensors"]


def files_in(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def weights(files: ModelFiles) -> list[str]:
    return [path.name for path in files.weights]


@pytest.fixture
def repo(hub: Any) -> Any:
    """`org/model` with two shards and much that is not needed; its branch `side` has one file of weights."""
    hub.files["org/model"] = {
        MAIN: {**TEXT, **UNWANTED, **SHARDS, "extra.safetensors": b"3"},
        BRANCH: {**TEXT, "model.safetensors": b"1"},
    }
    return hub


def test_only_needed_files_are_fetched(repo: Any, resolve: Resolve) -> None:
    files = resolve()
    assert files_in(files.directory) == sorted({**TEXT, **SHARDS})
    assert repo.fetched() == {Path(name).name for name in (*TEXT, *SHARDS)}
    assert weights(files) == NAMES
    assert (files.model, files.revision, files.source) == ("org/model", MAIN, "hub")


def test_nothing_is_fetched_twice(repo: Any, resolve: Resolve) -> None:
    first = resolve()
    repo.asked.clear()
    assert resolve() == first
    assert repo.fetched() == set()


def test_the_tokenizer_alone_brings_no_weights(repo: Any, resolve: Resolve) -> None:
    files = resolve(tokenizer_only=True)
    assert files_in(files.directory) == sorted(TEXT)
    assert files.weights == ()


def safetensors(elements: int, name: str = "x") -> bytes:
    header = json.dumps({name: {"dtype": "F32", "shape": [elements], "data_offsets": [0, 4 * elements]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(4 * elements)


def test_headers_come_without_the_data(repo: Any, resolve: Resolve, tmp_path: Path) -> None:
    shards = {name: safetensors(200_000, tensor) for name, tensor in zip(NAMES, "xy", strict=True)}
    repo.files["org/model"][MAIN] |= shards
    files = HubSource().resolve_headers(ModelRequest(model="org/model", show_progress=False), tmp_path)
    assert files is not None
    assert (files.source, files.revision, weights(files)) == ("hub", MAIN, NAMES)
    assert repo.sent < 250_000  # of 1.6 MB
    assert repo.fetched() == {"config.json", "generation_config.json", *SHARDS}
    checkpoint = Checkpoint(files.directory)
    assert {name: header.shape for name, header in checkpoint.headers().items()} == {
        "x": (200_000,),
        "y": (200_000,),
    }
    assert json.loads((files.directory / "config.json").read_text()) == {"a": 1}
    assert resolve().directory != files.directory  # the cache holds no file of holes


@pytest.mark.usefixtures("resolve")
def test_older_quantization_files_come_with_the_headers(repo: Any, tmp_path: Path) -> None:
    shards = {name: safetensors(2, tensor) for name, tensor in zip(NAMES, "xy", strict=True)}
    repo.files["org/model"][MAIN] |= {"quantize_config.json": b'{"bits": 4}', **shards}
    files = HubSource().resolve_headers(ModelRequest(model="org/model", show_progress=False), tmp_path)
    assert files is not None
    assert load_model_config(files)["quantization_config"] == {"quant_method": "gptq", "bits": 4}


def test_what_the_cache_holds_is_not_described_anew(repo: Any, resolve: Resolve, tmp_path: Path) -> None:
    whole = resolve()
    repo.asked.clear()
    assert (
        HubSource().resolve_headers(ModelRequest(model="org/model", show_progress=False), tmp_path) == whole
    )
    assert repo.fetched() == set()
    assert not list(tmp_path.glob("a*"))


def test_headers_that_are_none_are_a_broken_checkpoint(repo: Any, library: Any, tmp_path: Path) -> None:
    request = ModelRequest(model="org/model", show_progress=False)
    with pytest.raises(CheckpointError, match=r"model-1\.safetensors of 'org/model' is no safetensors file"):
        HubSource().resolve_headers(request, tmp_path)


def test_headers_without_a_network_come_from_the_cache_or_not_at_all(
    repo: Any, resolve: Resolve, tmp_path: Path
) -> None:
    request = ModelRequest(model="org/model", show_progress=False)
    repo.failure = (503, "")
    with pytest.raises(ModelNotFoundError, match="not in the Hugging Face cache"):
        HubSource().resolve_headers(request, tmp_path)
    repo.failure = None
    whole = resolve()
    repo.failure = (503, "")
    assert HubSource().resolve_headers(request, tmp_path) == whole
    assert HubSource().resolve_headers(ModelRequest(model="no id/at all/"), tmp_path) is None


@pytest.mark.parametrize("revision", ["side", BRANCH])
def test_a_branch_or_commit_is_honoured(repo: Any, resolve: Resolve, revision: str) -> None:
    files = resolve(revision=revision)
    assert files.revision == BRANCH
    assert weights(files) == ["model.safetensors"]


@pytest.mark.parametrize("token", [None, "hf_secret"])
def test_the_token_is_sent(
    repo: Any, resolve: Resolve, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    resolve()
    assert {header for _, _, header in repo.asked} == {token and f"Bearer {token}"}


def test_offline_with_a_warm_cache(
    repo: Any, resolve: Resolve, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = resolve()
    repo.asked.clear()
    monkeypatch.setattr(library, "HF_HUB_OFFLINE", True)
    assert resolve() == online
    assert repo.asked == []


def test_offline_with_a_cold_cache(
    repo: Any, resolve: Resolve, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"not in the Hugging Face cache.*HF_HUB_OFFLINE"):
        resolve()
    assert repo.asked == []


def test_offline_with_only_the_tokenizer_in_the_cache(
    repo: Any, resolve: Resolve, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(tokenizer_only=True)
    monkeypatch.setattr(library, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="has no weights"):
        resolve()
    assert resolve(tokenizer_only=True).revision == MAIN


def test_a_hub_that_is_down_leaves_the_cache(
    repo: Any, resolve: Resolve, caplog: pytest.LogCaptureFixture
) -> None:
    online = resolve()
    repo.failure = (503, "")
    assert resolve() == online
    assert "comes from the cache" in caplog.text


def test_no_network_and_nothing_cached(
    resolve: Resolve, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFoundError, match="Check the network"):
        resolve()


def test_a_hub_that_goes_down_halfway(
    repo: Any, resolve: Resolve, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve(tokenizer_only=True)
    monkeypatch.setattr(library, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFoundError, match="only in part"):
        resolve()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_is_not_the_networks_fault(
    repo: Any, resolve: Resolve, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match=r"cannot be written into the Hugging Face cache.*HF_HOME"):
        resolve()


def test_the_environment_is_honoured(repo: Any, ask_process: Any, tmp_path: Path) -> None:
    """HF_HOME, HF_ENDPOINT and HF_TOKEN at first, then HF_HUB_OFFLINE, as a user sets them."""
    directory, names = ask_process("org/model", HF_TOKEN="hf_secret")
    assert directory.is_relative_to(tmp_path / "home")
    assert names == NAMES
    assert {header for _, _, header in repo.asked} == {"Bearer hf_secret"}
    repo.asked.clear()
    assert ask_process("org/model", HF_HUB_OFFLINE="1") == (directory, names)
    assert repo.asked == []


def test_a_model_that_is_not_there(resolve: Resolve) -> None:
    with pytest.raises(ModelNotFoundError, match="no model 'org/other', or it is private"):
        resolve("org/other")


def test_a_revision_that_is_not_there(repo: Any, resolve: Resolve) -> None:
    with pytest.raises(ModelNotFoundError, match="no revision 'nowhere'"):
        resolve(revision="nowhere")


@pytest.mark.parametrize(
    ("failure", "part"),
    [
        ((403, "GatedRepo"), "is gated: ask for access"),
        ((401, "GatedRepo"), "is gated: ask for access"),
        ((401, "RepoNotFound"), "or it is private"),
        ((401, ""), "refuses 'org/model' with status 401"),
        ((403, ""), "refuses 'org/model' with status 403"),
    ],
)
def test_a_refusal_names_the_way_out(
    repo: Any, resolve: Resolve, failure: tuple[int, str], part: str
) -> None:
    repo.failure = failure
    with pytest.raises(ModelError, match=part) as raised:
        resolve()
    assert "HF_TOKEN" in str(raised.value)


def test_pickles_are_refused_before_anything_is_fetched(hub: Any, resolve: Resolve) -> None:
    hub.files["org/model"] = {MAIN: {**TEXT, "pytorch_model.bin": b"pickle"}}
    with pytest.raises(CheckpointError, match="runs whatever code"):
        resolve()
    assert hub.fetched() == set()


def test_a_torch_file_is_fetched_where_it_will_do(hub: Any, resolve: Resolve, tmp_path: Path) -> None:
    """Whole even to describe it, for what it holds is written at its end."""
    hub.files["org/model"] = {MAIN: {**TEXT, "pytorch_model.bin": b"pickle", "optimizer.bin": b"more"}}
    files = resolve(torch_files=True)
    assert weights(files) == ["pytorch_model.bin"]
    assert "optimizer.bin" not in hub.fetched()
    request = ModelRequest(model="org/model", torch_files=True, show_progress=False)
    described = HubSource().resolve_headers(request, tmp_path)
    assert described is not None
    assert weights(described) == ["pytorch_model.bin"]


def test_an_index_that_climbs_out_is_refused(hub: Any, resolve: Resolve) -> None:
    index = json.dumps({"weight_map": {"x": "../../secret.safetensors"}}).encode()
    hub.files["org/model"] = {MAIN: {**TEXT, "model.safetensors.index.json": index}}
    with pytest.raises(CheckpointError, match=r"only \.safetensors files beside the index"):
        resolve()


def test_a_repository_without_config_is_no_model(hub: Any, resolve: Resolve) -> None:
    hub.files["org/model"] = {MAIN: {"README.md": b"x"}}
    with pytest.raises(ModelNotFoundError, match=r"no config\.json"):
        resolve()
    with pytest.raises(ModelNotFoundError, match="no tokenizer files"):
        resolve(tokenizer_only=True)


def test_progress_is_shown_when_asked(repo: Any, library: Any, capfd: pytest.CaptureFixture[str]) -> None:
    HubSource().resolve(ModelRequest(model="org/model", show_progress=False))
    assert capfd.readouterr().err == ""
    HubSource().resolve(ModelRequest(model="org/model", revision="side", show_progress=True))
    assert "Fetching" in capfd.readouterr().err


@pytest.mark.parametrize(
    "name", ["/etc", "./x", "a/b/c", "a b", "", "a..b", "a--b/c", "http://x/y", "x" * 97]
)
def test_what_cannot_be_an_id_is_not_asked(name: str) -> None:
    assert HubSource().resolve(ModelRequest(model=name)) is None
