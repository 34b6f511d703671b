"""The command with a tool that merely copies the model. The tools themselves: `make test-tools`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from quire.errors import ConfigError
from quire_command_quantize import command as module
from quire_command_quantize.text import read_samples
from quire_command_quantize.tools import Job, Method, require
from quire_models_tiny.source import DATA


class Letters:
    """A tokenizer with an id per character."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(module.command, [str(one) for one in arguments])


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("def f(x):\n    return x + 1\n" * 60)
    return path


def test_the_last_tenth_is_kept_back(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(97 + index % 26) for index in range(205)))
    found = read_samples(path, Letters(), count=6, length=10)
    whole = Letters().encode(path.read_text())
    assert found.held_out == [whole[180:190], whole[190:200]]
    assert found.calibration == [whole[at : at + 10] for at in range(0, 180, 30)]


def test_a_text_too_short_says_so(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("short")
    with pytest.raises(ConfigError, match=r"has 5 tokens; two pieces of 4 are the least"):
        read_samples(path, Letters(), count=1, length=4)


@pytest.mark.parametrize(("method", "tool"), [("gptq", "gptqmodel"), ("int8", "llmcompressor")])
def test_a_missing_tool_says_how_to_install_it(method: Method, tool: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s){tool}, which cannot be imported.*pip install .*\[{tool}\]"):
        require(method)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "awq", "--bits", 8], "--bits 8: awq has 4"),
        (["--method", "int8", "--desc-act"], "goes with --method gptq, not int8"),
    ],
)
def test_what_a_format_does_not_have_is_refused(
    arguments: list[object], message: str, text: Path, tmp_path: Path
) -> None:
    found = run(DATA, tmp_path / "out", "--calibration", text, *arguments)
    assert isinstance(found.exception, ConfigError)
    assert message in str(found.exception)


def test_what_is_there_is_not_written_over(text: Path, tmp_path: Path) -> None:
    found = run(DATA, tmp_path, "--method", "gptq", "--calibration", text)
    assert "is there and not empty" in str(found.exception)


def test_perplexity_before_and_after(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []

    def copy(job: Job) -> None:
        jobs.append(job)
        job.target.mkdir()
        for name in ("config.json", "generation_config.json", "model.safetensors"):
            shutil.copy(job.source / name, job.target)

    monkeypatch.setattr(module, "require", lambda _: None)
    monkeypatch.setattr(module, "quantize", copy)
    out = tmp_path / "out"
    options = ("--method", "gptq", "--calibration", text, "--sequence-length", 32, "--samples", 4)
    found = run(DATA, out, *options)
    assert found.exit_code == 0, found.output
    assert (out / "tokenizer.json").is_file()
    assert (jobs[0].bits, jobs[0].group_size, len(jobs[0].samples)) == (4, 128, 4)
    assert "perplexity x 1.0000 on" in found.output
