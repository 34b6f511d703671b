"""4-bit checkpoints of a bf16 one: which tensors are packed, what they stand for, what config.json says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from packed_checkpoint import FORMATS, common_group_size, write_packed
from quire.ops.bits import unpack_fields
from quire_quant_awq.decode import columns

INPUTS, OUTPUTS = 128, 32
PROJECTION = "model.layers.0.mlp.down_proj"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A bf16 checkpoint of one projection and what is not packed."""
    directory = tmp_path / "source"
    directory.mkdir()
    generator = torch.Generator().manual_seed(0)
    save_file(
        {
            "model.embed_tokens.weight": torch.randn(8, INPUTS, generator=generator).bfloat16(),
            "model.norm.weight": torch.ones(INPUTS).bfloat16(),
            f"{PROJECTION}.weight": torch.randn(OUTPUTS, INPUTS, generator=generator).bfloat16(),
        },
        directory / "model.safetensors",
    )
    (directory / "config.json").write_text('{"model_type": "llama"}')
    return directory


@pytest.mark.parametrize("form", FORMATS)
def test_projections_alone_are_packed(source: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / form
    write_packed(source, target, form)
    plain, packed = (load_file(path / "model.safetensors") for path in (source, target))
    assert f"{PROJECTION}.weight" not in packed
    assert {"qweight", "qzeros", "scales"} <= {
        name.rpartition(".")[2] for name in packed if name.startswith(PROJECTION)
    }
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(packed[name], plain[name])
    config = json.loads((target / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["quantization_config"]["quant_method"] == form
    assert config["quantization_config"]["group_size"] == 128


@pytest.mark.parametrize("form", FORMATS)
def test_codes_stand_for_the_weights(source: Path, tmp_path: Path, form: str) -> None:
    write_packed(source, tmp_path / form, form)
    weight = load_file(source / "model.safetensors")[f"{PROJECTION}.weight"].float().t()  # [K, N]
    packed = load_file(tmp_path / form / "model.safetensors")
    words, zeros, scales = (packed[f"{PROJECTION}.{name}"] for name in ("qweight", "qzeros", "scales"))
    if form == "awq":
        codes, centre = columns(words), columns(zeros)
    else:
        codes = unpack_fields(words, 4, INPUTS, dim=0)
        centre = unpack_fields(zeros, 4, OUTPUTS, dim=1) + 1  # version 1 stores one less
    stood_for = (codes.float() - centre.float()) * scales.float()
    assert bool(((stood_for - weight).abs() <= scales.float()).all())


def test_groups_divide_all_projections() -> None:
    assert common_group_size([2048, 8192]) == 128
    assert common_group_size([576, 1536]) == 64
    with pytest.raises(ValueError, match="576, 600"):
        common_group_size([576, 600])
