"""The page on structured output runs, and its configuration is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from quire import EngineConfig
from tests.test_docs import ROOT, blocks

PAGE = "docs/how-to/structured-output.md"


def test_the_python_runs() -> None:
    script = blocks(PAGE, "python")[0]
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("['city', 'kind', 'people'] ")


def test_the_configuration_is_one(tmp_path: Path) -> None:
    file = tmp_path / "quire.yaml"
    file.write_text(blocks(PAGE, "yaml")[0])
    config = EngineConfig.load(file, environ={})
    assert config.structured_outputs.max_source_bytes == 1 << 18
