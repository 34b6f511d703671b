"""Bad input at the command line: one clear line, a non-zero exit, never a traceback from the depths."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from quire.cli import main
from quire.testing.model import Reference

Checkpoint = Callable[[str], Reference]


Refused = Callable[..., None]


@pytest.fixture
def assert_refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command: exit status 1 or 2, an error that holds the words, and no traceback."""

    def check(arguments: list[str], *words: str) -> None:
        status = main(arguments)
        output = capsys.readouterr()
        assert status in (1, 2), output.out
        for word in words:
            assert word in output.err
        assert "Traceback" not in output.out + output.err

    return check


@pytest.fixture
def copy(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be spoilt."""
    return Path(shutil.copytree(checkpoint("llama").directory, tmp_path / "model"))


def first_shard(directory: Path) -> Path:
    return sorted(directory.glob("*.safetensors"))[0]


def test_unknown_path(assert_refused: Refused) -> None:
    assert_refused(["generate", "./no/such/model", "x"], "error:", "no/such/model")


def test_unsupported_architecture_lists_what_is_installed_and_who_was_asked(
    copy: Path, assert_refused: Refused
) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "architectures": ["MambaForCausalLM"]}))
    assert_refused(
        ["generate", str(copy), "x"],
        "MambaForCausalLM",
        "kind 'model'",
        "LlamaForCausalLM",
        "Qwen3ForCausalLM",
    )


def test_truncated_weights(copy: Path, assert_refused: Refused) -> None:
    shard = first_shard(copy)
    shard.write_bytes(shard.read_bytes()[:-100])
    assert_refused(["generate", str(copy), "x"], shard.name)


def test_lying_header(copy: Path, assert_refused: Refused) -> None:
    shard = first_shard(copy)
    data = shard.read_bytes()
    shard.write_bytes((2**62).to_bytes(8, "little") + data[8:])
    assert_refused(["generate", str(copy), "x"], shard.name)


def test_weights_of_another_shape_name_tensor_and_expectation(copy: Path, assert_refused: Refused) -> None:
    assert_refused(
        ["generate", str(copy), "x", "--hf-overrides", json.dumps({"intermediate_size": 64})],
        "mlp.gate_proj.weight",
        "64",
        "96",
    )


def test_pickled_weights(copy: Path, assert_refused: Refused) -> None:
    for shard in copy.glob("*.safetensors*"):
        shard.unlink()
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04canary")
    assert_refused(["generate", str(copy), "x"], "pytorch_model.bin", "safetensors")


def test_missing_tokenizer(copy: Path, assert_refused: Refused) -> None:
    (copy / "tokenizer.json").unlink()
    assert_refused(["generate", str(copy), "x"], "tokenizer")


def test_prompt_too_long(checkpoint: Checkpoint, assert_refused: Refused) -> None:
    model = str(checkpoint("llama").directory)
    assert_refused(["generate", model, "x" * 300, "--dtype", "float32"], "300 tokens", "256")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--top-p", "1.5"], ["top_p", "1.5"]),
        (["--no-such-flag"], ["no-such-flag"]),
        (["--attention-backend", "warp"], ["warp", "torch"]),
        (["--tensor-parallel-size", "2"], ["tensor_parallel_size", "not built"]),
        (["--kv-cache-dtype", "int4"], ["kv-cache-dtype", "int4"]),
        (["--kv-cache-dtype", "fp8", "--attention-backend", "torch"], ["float8_e4m3fn", "torch"]),
    ],
)
def test_bad_options(
    checkpoint: Checkpoint, assert_refused: Refused, arguments: list[str], words: list[str]
) -> None:
    assert_refused(["generate", str(checkpoint("llama").directory), "x", *arguments], *words)


def test_wrong_yaml_names_file_and_line(tmp_path: Path, assert_refused: Refused) -> None:
    file = tmp_path / "quire.yaml"
    file.write_text("model: tiny\nmax_num_seqs: many\n")
    assert_refused(["config", "--check", str(file)], "quire.yaml:2", "max_num_seqs")
    file.write_text("model: [tiny\n")
    assert_refused(["config", "--check", str(file)], "quire.yaml:")


def test_a_real_process_exits_non_zero_without_a_traceback(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "quire"), "generate", str(tmp_path), "x"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
