"""`bench/deterministic.py` on a tiny model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "deterministic.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_row_per_figure() -> None:
    done = run("--model", "tiny", "--rounds", "1", "--workloads", "single,prefix")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if "%" in line]
    assert [row.split("|")[2].strip() for row in rows] == ["ms/token", "ms", "req/s"]


def test_unknown_workloads_are_refused() -> None:
    done = run("--workloads", "single,online")
    assert done.returncode == 2
    assert "online" in done.stderr
