"""The tools, for real: each writes its checkpoints, and Quire's engine computes what the tool would.

`make test-tools`, not part of `make test`: it installs gigabytes once and runs for minutes. What was written
is kept in a cache as long as the recipe stays the same.
"""

from __future__ import annotations

import pytest

from checkpoint_recipes.environments import written
from checkpoint_recipes.variants import TOOLS, VARIANTS, of_tool
from tests.quantized_checkpoint import assert_equals_reference


@pytest.mark.parametrize("tool", TOOLS)
def test_the_tool_writes_every_variant(tool: str) -> None:
    assert {path.name for path in written(tool).iterdir()} >= set(of_tool(tool))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_engine_computes_what_the_tool_would(name: str, dtype: str) -> None:
    directory = written(VARIANTS[name].tool) / name
    assert_equals_reference(directory, dtype)
