"""The checkpoints that are kept here, as the tools wrote them: one per format and option that matters."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.quantized_checkpoint import assert_equals_reference

CHECKPOINTS = sorted(Path(__file__).parent.glob("checkpoints/*"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("directory", CHECKPOINTS, ids=lambda path: path.name)
def test_a_kept_checkpoint_equals_the_tool(directory: Path, dtype: str) -> None:
    assert_equals_reference(directory, dtype)


def test_they_are_small() -> None:
    files = [path for directory in CHECKPOINTS for path in directory.rglob("*")]
    assert CHECKPOINTS
    assert sum(path.stat().st_size for path in files if path.is_file()) < 1_000_000


def test_they_are_what_the_recipe_says() -> None:
    from checkpoint_recipes.variants import VARIANTS

    assert {path.name for path in CHECKPOINTS} == {name for name, one in VARIANTS.items() if one.kept}


def test_no_file_tells_where_it_was_made() -> None:
    for directory in CHECKPOINTS:
        for path in filter(Path.is_file, directory.rglob("*")):
            assert not re.search(rb"/(tmp|home|root|work|opt|Users)/", path.read_bytes()), path
