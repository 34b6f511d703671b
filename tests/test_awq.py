"""AWQ checkpoints through the whole engine: what they stand for, generated token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire import LLM
from quire.errors import CheckpointError, QuireError
from quire_quant_awq.testing import PACKERS, quantize

from .packed_checkpoints import PROMPTS, greedy, write

OpenLLM = Callable[..., LLM]


def written(
    directory: Path,
    family: str,
    layout: str,
    *,
    left_out: tuple[str, ...] = ("lm_head",),
    group_size: int = 32,
) -> tuple[str, str]:
    """A checkpoint in a layout, and a float one of its weights."""

    def encode(module: str, weight: torch.Tensor) -> tuple[Mapping[str, torch.Tensor], torch.Tensor] | None:
        if any(part in module for part in left_out):
            return None
        made = quantize(weight, group_size)
        stored = PACKERS[layout](made.codes, made.zeros, made.scales)
        dense = made.weight()
        if layout == "gemv_fast":  # the file has the products of scales and zeros, in fp16
            each = len(made.codes) // len(made.scales)
            products = stored["qzeros"][: len(made.scales)].float().repeat_interleave(each, 0)
            dense = (made.codes * made.scales.repeat_interleave(each, 0) + products).t()
        return stored, dense

    settings = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "version": layout,
        "modules_to_not_convert": [part for part in left_out if part != "lm_head"] or None,
    }
    return write(directory, family, encode, settings)


@pytest.mark.parametrize("kernels", ["reference", None])
@pytest.mark.parametrize(
    ("family", "layout", "left_out"),
    [
        ("llama", "gemm", ("lm_head",)),
        ("qwen2", "gemm", ("lm_head", "k_proj", "layers.1.mlp")),
        ("llama", "gemv", ()),
        ("qwen3", "gemv_fast", ("lm_head",)),
    ],
)
def test_tokens_are_those_of_the_weights_it_stands_for(
    tmp_path: Path,
    open_llm: OpenLLM,
    family: str,
    layout: str,
    left_out: tuple[str, ...],
    kernels: str | None,
) -> None:
    packed, dense = written(tmp_path, family, layout, left_out=left_out)
    expected = greedy(open_llm(dense), PROMPTS)
    llm = open_llm(packed, kernels=kernels)
    assert llm.startup_report.plugins.plugins["quantization"].name == "awq"
    assert greedy(llm, PROMPTS) == expected
    assert [greedy(llm, [prompt])[0] for prompt in PROMPTS] == expected


def test_scales_that_are_not_finite_are_named(tmp_path: Path, open_llm: OpenLLM) -> None:
    packed, _ = written(tmp_path, "llama", "gemm")
    file = Path(packed) / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.down_proj.scales"][2, 5] = float("nan")
    save_file(tensors, file)
    with pytest.raises(
        CheckpointError,
        match=r"model\.safetensors: tensor 'model\.layers\.1\.mlp\.down_proj\.scales' .*\[2, 5\]",
    ):
        open_llm(packed)


def test_a_method_that_contradicts_the_checkpoint_is_refused(tmp_path: Path, open_llm: OpenLLM) -> None:
    packed, _ = written(tmp_path, "llama", "gemm")
    with pytest.raises(QuireError, match="awq"):
        open_llm(packed, quantization="int8")


def test_a_contradiction_is_found_before_anything_is_loaded(tmp_path: Path, open_llm: OpenLLM) -> None:
    packed, _ = written(tmp_path, "llama", "gemm")
    file = Path(packed) / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.0.self_attn.q_proj.qzeros"
    tensors[name] = tensors[name][:1].contiguous()  # no size of groups fits these beside the scales
    save_file(tensors, file)
    with pytest.raises(
        CheckpointError, match=r"tensor 'model\.layers\.0\.self_attn\.q_proj\.qzeros' has shape"
    ):
        open_llm(packed)


def test_made_up_weights_need_no_files_of_weights(tmp_path: Path, open_llm: OpenLLM) -> None:
    packed, _ = written(tmp_path, "llama", "gemm", group_size=64)
    (Path(packed) / "model.safetensors").unlink()
    llm = open_llm(packed, load_format="dummy")
    assert len(greedy(llm, PROMPTS[:1])[0]) == 16
