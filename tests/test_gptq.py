"""GPTQ checkpoints through the whole engine: what they stand for, generated token by token."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.torch import save_file

from quire import LLM, SamplingParams
from quire.errors import CheckpointError
from quire.testing.model import save_random_checkpoint
from quire_quant_gptq.testing import Variant, quantize_directory

from .conftest import BASE, random_prompt, save_byte_tokenizer

OpenLLM = Callable[..., LLM]
SHAPE = {
    **BASE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PROMPTS = [random_prompt(length, seed=length) for length in (3, 17, 40)]

VARIANTS = {
    "v1": Variant(sym=True),
    "act-order": Variant(desc_act=True, bits=3),
    "v2": Variant(stored_format="gptq_v2", bits=8, group_size=-1),
    "gptqmodel": Variant(gptqmodel=True, desc_act=True),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A random float checkpoint of a family."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            save_random_checkpoint(made[family], {**SHAPE, "model_type": family})
            save_byte_tokenizer(made[family])
        return made[family]

    return make


def written(source: Path, directory: Path, variant: Variant, plain: tuple[str, ...]) -> tuple[Path, Path]:
    """A GPTQ checkpoint, and a float one of the weights that it stands for."""
    quantized, dense = directory / "gptq", directory / "dense"
    tensors = quantize_directory(source, quantized, variant, plain=plain)
    dense.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, dense / "model.safetensors")
    for path in source.glob("*.json"):
        if not path.name.endswith(".index.json"):
            (dense / path.name).write_bytes(path.read_bytes())
    return quantized, dense


def greedy(llm: LLM, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    params = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
    asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    return [output.outputs[0].token_ids for output in llm.generate(asked, params, use_tqdm=False)]


@pytest.mark.parametrize("kernels", ["reference", None])
@pytest.mark.parametrize(
    ("family", "variant", "plain"),
    [
        ("llama", "v1", ("lm_head",)),
        ("llama", "act-order", ()),
        ("qwen2", "gptqmodel", ("lm_head", "k_proj")),
        ("qwen3", "v2", ("lm_head", "down_proj")),
    ],
)
def test_tokens_are_those_of_the_weights_it_stands_for(
    source: Callable[[str], Path],
    tmp_path: Path,
    open_llm: OpenLLM,
    family: str,
    variant: str,
    plain: tuple[str, ...],
    kernels: str | None,
) -> None:
    quantized, dense = written(source(family), tmp_path, VARIANTS[variant], plain)
    dense_llm = open_llm(str(dense))
    expected = greedy(dense_llm, PROMPTS)
    llm = open_llm(str(quantized), kernels=kernels)
    report = llm.startup_report
    assert report.plugins.plugins["quantization"].name == "gptq"
    assert report.num_parameters == dense_llm.startup_report.num_parameters
    assert " less than in float32)" in "\n".join(report.lines())
    assert " less than in " not in "\n".join(dense_llm.startup_report.lines())
    assert greedy(llm, PROMPTS) == expected
    assert [greedy(llm, [prompt])[0] for prompt in PROMPTS] == expected


def test_settings_in_a_file_of_their_own_are_found(
    source: Callable[[str], Path], tmp_path: Path, open_llm: OpenLLM
) -> None:
    """AutoGPTQ's older checkpoints have nothing in config.json, and a file that names no method."""
    quantized, dense = written(source("llama"), tmp_path, VARIANTS["v1"], ("lm_head",))
    config = json.loads((quantized / "config.json").read_text())
    legacy = config.pop("quantization_config")
    del legacy["quant_method"], legacy["checkpoint_format"], legacy["meta"]
    (quantized / "config.json").write_text(json.dumps(config))
    (quantized / "quantize_config.json").write_text(json.dumps(legacy))
    (quantized / "model.safetensors").rename(quantized / "gptq_model-4bit-32g.safetensors")
    assert greedy(open_llm(str(quantized)), PROMPTS) == greedy(open_llm(str(dense)), PROMPTS)


def test_a_contradiction_is_found_before_anything_is_loaded(
    source: Callable[[str], Path], tmp_path: Path, open_llm: OpenLLM
) -> None:
    quantized, _ = written(source("llama"), tmp_path, VARIANTS["v1"], ("lm_head",))
    config = json.loads((quantized / "config.json").read_text())
    config["quantization_config"]["bits"] = 8
    (quantized / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"q_proj\.qweight' has shape .* which is 4 bits"):
        open_llm(str(quantized))
