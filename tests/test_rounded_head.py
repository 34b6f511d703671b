"""`head: int8` through the whole engine: tokens are those of the head's dequantized weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from quire import LLM, EngineConfig
from quire.engine.planning.forecast import forecast
from quire.errors import ConfigError
from quire.layers import quantize_rows
from quire_quant_awq.testing import pack_gemm, quantize
from quire_quant_compressed_tensors.testing import pack
from quire_quant_compressed_tensors.testing import settings as scheme
from quire_quant_gptq.testing import Variant

from .packed_checkpoints import PROMPTS, greedy, write

OpenLLM = Callable[..., LLM]
Encoded = tuple[Mapping[str, torch.Tensor], torch.Tensor]


def awq(weight: torch.Tensor) -> Encoded:
    made = quantize(weight, 32)
    return pack_gemm(made.codes, made.zeros, made.scales), made.weight()


def gptq(weight: torch.Tensor) -> Encoded:
    return Variant(sym=True).encode(weight)


def compressed_tensors(weight: torch.Tensor) -> Encoded:
    stored = pack(weight, bits=4, group_size=32)
    return stored.tensors, stored.weight


FORMATS: dict[str, tuple[Callable[[torch.Tensor], Encoded], dict[str, Any]]] = {
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}),
    "gptq": (gptq, Variant(sym=True).config()),
    "compressed-tensors": (
        compressed_tensors,
        scheme(
            {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
            format="pack-quantized",
            ignore=["lm_head"],
        ),
    ),
}


def written(directory: Path, name: str, *, tied: bool) -> tuple[str, str]:
    """A checkpoint of a format whose head is in floats, and a float one with that head rounded."""
    encode, settings = FORMATS[name]
    packed, dense = write(
        directory,
        "llama",
        lambda module, weight: None if module == "lm_head" else encode(weight),
        settings,
        tie_word_embeddings=tied,
    )
    file = Path(dense) / "model.safetensors"
    tensors = load_file(file)
    weight = tensors["model.embed_tokens.weight" if tied else "lm_head.weight"]
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight), 1, dtype=torch.bfloat16)  # 64 inputs are one group
    quantize_rows(weight, codes, scales, "lm_head.weight")
    save_file({**tensors, "lm_head.weight": codes * scales.float()}, file)
    config = Path(dense) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": False}))
    return packed, dense


def by_transformers(directory: str) -> list[list[int]]:
    """Sixteen greedy tokens of each prompt."""
    model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    outputs = []
    for prompt in PROMPTS:
        ids = list(prompt)
        with torch.inference_mode():
            for _ in range(16):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        outputs.append(ids[len(prompt) :])
    return outputs


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_tokens_are_those_of_the_rounded_head(
    tmp_path: Path, open_llm: OpenLLM, name: str, tied: bool
) -> None:
    packed, dense = written(tmp_path, name, tied=tied)
    expected = by_transformers(dense)
    options = {"options": {f"quantization.{name}": {"head": "int8"}}}
    for kernels in ("reference", None):
        llm = open_llm(packed, kernels=kernels, plugins=options)
        assert llm.startup_report.plugins.plugins["quantization"].name == name
        assert greedy(llm, PROMPTS) == expected
        assert [greedy(llm, [prompt])[0] for prompt in PROMPTS] == expected


@pytest.mark.parametrize("tied", [False, True])
def test_its_memory_is_counted(tmp_path: Path, open_llm: OpenLLM, tied: bool) -> None:
    packed, _ = written(tmp_path, "awq", tied=tied)
    settings: dict[str, Any] = {"dtype": "float32", "kernels": "cpu", "kv_cache_memory_bytes": "8MiB"}
    held, planned = [], []
    for head in (None, "int8"):
        plugins = {"options": {"quantization.awq": {"head": head}}}
        held.append(open_llm(packed, plugins=plugins, **settings).startup_report.memory.weights)
        planned.append(forecast(EngineConfig(model=packed, plugins=plugins, **settings)).profile.weights)
    # A quarter of fp32, and scales: of a tied one too, which has a copy of its own either way.
    saved = 258 * 64 * 3
    assert saved * 0.9 < held[0] - held[1] < saved * 1.3  # the kernels fill columns up, of fp32 more
    assert saved * 0.9 < planned[0] - planned[1] < saved * 1.3


@pytest.mark.parametrize("options", [{"head": "int4"}, {"lm_head": "int8"}])
def test_what_is_no_option_is_refused(tmp_path: Path, open_llm: OpenLLM, options: dict[str, object]) -> None:
    packed, _ = written(tmp_path, "awq", tied=False)
    with pytest.raises(ConfigError, match=r"plugins\.options\.quantization\.awq.*head"):
        open_llm(packed, plugins={"options": {"quantization.awq": options}})
