"""llm-compressor's checkpoints through the whole engine: what they stand for, generated token by token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from quire import LLM, SamplingParams
from quire.errors import QuireError
from quire_quant_compressed_tensors.testing import pack, per_token, plain, settings

from .conftest import BASE
from .packed_checkpoints import PROMPTS, greedy, write

OpenLLM = Callable[..., LLM]
Encoded = tuple[Mapping[str, torch.Tensor], torch.Tensor]
CHANNEL = {"num_bits": 8, "symmetric": True, "strategy": "channel"}


def packed_weights(
    directory: Path,
    family: str,
    bits: int,
    group_size: int | None,
    symmetric: bool,
    ignore: list[str],
    order: bool,
) -> tuple[str, str]:
    """A checkpoint in W4A16 or W8A16, and a float one of its weights."""

    def encode(module: str, weight: torch.Tensor) -> Encoded | None:
        if any(part in module for part in ignore):
            return None
        index = None
        if order:
            # Projections of one input are ordered alike, as GPTQ orders them, but for v.
            generator = torch.Generator().manual_seed(int("v_proj" in module))
            index = torch.randperm(weight.shape[1], generator=generator) // (group_size or weight.shape[1])
        stored = pack(weight, bits=bits, group_size=group_size, symmetric=symmetric, order=index)
        return stored.tensors, stored.weight

    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if group_size is None else "group",
        "group_size": group_size,
        "actorder": "group" if order else None,
    }
    names = [name if name == "lm_head" else f"re:.*{name}" for name in ignore]
    return write(directory, family, encode, settings(weights, format="pack-quantized", ignore=names))


def plain_weights(directory: Path, dtype: torch.dtype, *, per_tensor: bool = False) -> tuple[str, str]:
    """A checkpoint in int8 or FP8, and a float one of its weights; the head is not quantized."""

    def encode(module: str, weight: torch.Tensor) -> Encoded | None:
        if module == "lm_head":
            return None
        stored = plain(weight, dtype, per_tensor=per_tensor)
        return stored.tensors, stored.weight

    kind = "int" if dtype == torch.int8 else "float"
    weights = {**CHANNEL, "type": kind, "strategy": "tensor" if per_tensor else "channel"}
    return write(directory, "llama", encode, settings(weights, per_token(kind), format=f"{kind}-quantized"))


@pytest.mark.parametrize("kernels", ["reference", None])
@pytest.mark.parametrize(
    ("family", "bits", "group_size", "symmetric", "ignore", "order"),
    [
        ("llama", 4, 32, True, ["lm_head"], False),
        ("qwen2", 4, 32, False, ["lm_head", "k_proj", "layers.1.mlp"], False),
        ("qwen3", 8, None, True, [], False),
        ("llama", 4, 16, False, ["lm_head"], True),
    ],
)
def test_tokens_are_those_of_the_weights_it_stands_for(
    tmp_path: Path,
    open_llm: OpenLLM,
    family: str,
    bits: int,
    group_size: int | None,
    symmetric: bool,
    ignore: list[str],
    order: bool,
    kernels: str | None,
) -> None:
    packed, dense = packed_weights(tmp_path, family, bits, group_size, symmetric, ignore, order)
    expected = greedy(open_llm(dense), PROMPTS)
    llm = open_llm(packed, kernels=kernels)
    assert llm.startup_report.plugins.plugins["quantization"].name == "compressed-tensors"
    assert greedy(llm, PROMPTS) == expected
    assert [greedy(llm, [prompt])[0] for prompt in PROMPTS] == expected


@pytest.mark.parametrize("kernels", ["reference", None])
def test_int8_computes_as_the_same_weights_quantized_at_load(
    tmp_path: Path, open_llm: OpenLLM, kernels: str | None
) -> None:
    """A row whose largest code is 127 has the same codes when `int8` quantizes what it stands for."""
    packed, dense = plain_weights(tmp_path, torch.int8)
    options = {"options": {"quantization.int8": {"lm_head": False}}}
    expected = greedy(open_llm(dense, quantization="int8", plugins=options, kernels=kernels), PROMPTS)
    assert greedy(open_llm(packed, kernels=kernels), PROMPTS) == expected


@pytest.mark.parametrize("per_tensor", [False, True])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_logprobs_are_those_of_transformers_with_rounded_activations(
    tmp_path: Path, open_llm: OpenLLM, dtype: torch.dtype, per_tensor: bool
) -> None:
    packed, dense = plain_weights(tmp_path, dtype, per_tensor=per_tensor)
    llm = open_llm(packed, max_logprobs=BASE["vocab_size"])
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=BASE["vocab_size"])
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max

    def rounded(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        scale = inputs[0].abs().amax(-1, keepdim=True) / largest
        codes = inputs[0] / scale
        return ((codes.round() if dtype == torch.int8 else codes.to(dtype).float()) * scale,)

    model = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    exact = [_logprobs(model, prompt) for prompt in PROMPTS]
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            module.register_forward_pre_hook(rounded)
    for prompt, unrounded in zip(PROMPTS, exact, strict=True):
        (output,) = llm.generate({"prompt_token_ids": prompt}, params, use_tqdm=False)
        assert output.prompt_logprobs is not None
        entries = [entry for entry in output.prompt_logprobs if entry is not None]
        ours = torch.tensor([[entry[i].logprob for i in range(BASE["vocab_size"])] for entry in entries])
        theirs = _logprobs(model, prompt)
        # A value that lies between two codes may be rounded up here and down there.
        assert float((ours - theirs).abs().mean()) < 0.1 * float((unrounded - theirs).abs().mean())


def _logprobs(model: Any, prompt: list[int]) -> torch.Tensor:
    """`[T - 1, V]`, of the tokens after the first."""
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([prompt])).logits
    return logits[0, :-1].log_softmax(-1)


def test_static_activations_are_refused_by_name(tmp_path: Path, open_llm: OpenLLM) -> None:
    packed, _ = plain_weights(tmp_path, torch.float8_e4m3fn)
    config = Path(packed) / "config.json"
    config.write_text(config.read_text().replace('"dynamic": true', '"dynamic": false'))
    with pytest.raises(QuireError, match=r"activations in float8 by token static.*Use a checkpoint in W4A16"):
        open_llm(packed)
