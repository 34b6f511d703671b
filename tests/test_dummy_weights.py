"""`load_format="dummy"`: a model of the right shape, and no files of weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from quire import LLM, SamplingParams
from quire.errors import CheckpointError
from quire.testing.model import Reference


@pytest.fixture
def weightless(checkpoint: Callable[[str], Reference], tmp_path: Path) -> Path:
    """A checkpoint's directory without its weights."""
    directory = tmp_path / "model"
    shutil.copytree(checkpoint("llama").directory, directory, ignore=shutil.ignore_patterns("*.safetensors*"))
    return directory


def test_random_weights_need_no_files(weightless: Path, open_llm: Callable[..., LLM]) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    found = []
    for seed in (1, 1, 2):
        llm = open_llm(str(weightless), load_format="dummy", seed=seed)
        found.append(llm.generate([5, 6, 7], params, use_tqdm=False)[0].outputs[0].token_ids)
    assert len(found[0]) == 8
    assert found[0] == found[1] != found[2]
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        open_llm(str(weightless))


def test_the_shape_is_still_needed(weightless: Path, open_llm: Callable[..., LLM]) -> None:
    (weightless / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_llm(str(weightless), load_format="dummy")
