"""`make gpu-check`: which files it runs, and what it says without a GPU."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
DEVELOPERS_ONLY = {"hypothesis", "ruff", "mypy", "playwright", "trustme", "pytest_asyncio", "xdist"}
"""What the environment of a GPU need not have."""

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def imported(path: Path) -> set[str]:
    """Packages that a module imports, at its top or later."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Not as a part of the `make test` that this may be: that tells of directories, and has flags of its own.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={**outside, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_make
def test_it_runs_every_file_that_is_marked() -> None:
    command = make("--dry-run", "gpu-check").stdout.splitlines()[-1].split()
    named = {ROOT / word for word in command if word.endswith(".py")}
    folders = [ROOT / name for name in ("core", "plugins", "server", "tests")]
    marked = {
        path
        for folder in folders
        for path in folder.rglob("test_*.py")
        if any(
            isinstance(node, ast.Attribute) and node.attr == "gpu"
            for node in ast.walk(ast.parse(path.read_text()))
        )
    }
    assert named == marked
    assert ROOT / "tests" / "test_gpu.py" in named
    conftests = {file for path in named for folder in path.parents for file in folder.glob("conftest.py")}
    needed = {name for path in named | conftests for name in imported(path)}
    assert not needed & DEVELOPERS_ONLY


@needs_make
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = make("gpu-check")
    assert done.returncode != 0
    assert "gpu-check needs a CUDA GPU, and PyTorch sees none" in done.stderr
