"""The four tools, for real: each writes its checkpoints, and Quire's engine computes what the tool would.

`make test-tools`, not part of `make test`: it installs gigabytes once and runs for minutes. What was written
is kept in the cache as long as the recipe stays the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from checkpoint_recipes.variants import TOOLS, VARIANTS, of_tool
from quire_models_tiny import source as tiny
from tests.quantized_checkpoint import assert_equals_reference, skip_unless_readable

from .environments import ROOT, STEPS, cache, python_of

RECIPES = sorted((ROOT / "tools" / "checkpoint_recipes").glob("*.py"))


def written(tool: str) -> Path:
    """The directory with what a tool wrote, by the recipe as it is now."""
    digest = hashlib.sha256(repr(STEPS[tool]).encode())
    for path in RECIPES:
        if not path.name.startswith("with_") or path.name == f"with_{tool}.py":
            digest.update(path.read_bytes())
    out = cache() / "checkpoints" / f"{tool}-{digest.hexdigest()[:12]}"
    if not all((out / name).is_dir() for name in of_tool(tool)):
        for stale in out.parent.glob(f"{tool}-*"):
            if stale != out:
                shutil.rmtree(stale)
        out.mkdir(parents=True, exist_ok=True)
        command = [str(python_of(tool)), str(ROOT / "tools" / "write_quantized.py"), tool]
        command += ["--out", str(out), "--tiny", str(Path(tiny.__file__).parent / "data")]
        environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
        found = subprocess.run(
            command, capture_output=True, text=True, env=environ, cwd=cache(), timeout=3000
        )
        assert found.returncode == 0, f"{found.stdout[-3000:]}\n{found.stderr[-6000:]}"
    return out


@pytest.fixture(scope="module")
def directories() -> dict[str, Path]:
    """Per tool the directory with its checkpoints; filled as tests ask."""
    return {}


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tool_writes_every_variant(tool: str, directories: dict[str, Path]) -> None:
    directories[tool] = written(tool)
    assert {path.name for path in directories[tool].iterdir()} >= set(of_tool(tool))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_engine_computes_what_the_tool_would(name: str, dtype: str, directories: dict[str, Path]) -> None:
    tool = VARIANTS[name].tool
    if tool not in directories:
        directories[tool] = written(tool)
    skip_unless_readable(directories[tool] / name)
    assert_equals_reference(directories[tool] / name, dtype)
