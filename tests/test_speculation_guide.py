"""The how-to page about speculative decoding runs as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from quire._config_speculation import Speculation
from quire.config import EngineConfig

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "how-to" / "speculative-decoding.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [code for name, code in BLOCK.findall(PAGE) if name == language]


@pytest.mark.slow
@pytest.mark.parametrize("script", blocks("python"), ids=["ngram", "draft", "eagle"])
def test_its_python_runs(script: str, tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^\d+ proposed, \d+ accepted$", run.stdout, re.MULTILINE)


def test_its_file_is_understood(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    file = tmp_path / "quire.yaml"
    file.write_text(text)
    assert EngineConfig.load(file, environ={}).speculation == Speculation("ngram", 5)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *zip(
            blocks("console"),
            [
                Speculation("ngram", 5),
                Speculation("draft", 3, "tiny-draft"),
                Speculation("eagle", 3, "tiny-eagle"),
            ],
            strict=True,
        )
    ],
)
def test_its_commands_are_understood(text: str, meant: Speculation) -> None:
    given = re.search(r"--speculative-config '(.*)'", text)
    assert given is not None
    assert EngineConfig(speculative_config=given[1]).speculation == meant
