"""The Python of the page on thinking runs with the bundled model; the server tests what asks a server."""

from __future__ import annotations

import subprocess
import sys

from tests.test_docs import ROOT, blocks


def test_the_budget_runs() -> None:
    (script,) = [one for one in blocks("docs/how-to/reasoning.md", "python") if "LLM(" in one]
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
