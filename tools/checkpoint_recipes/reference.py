"""What a checkpoint should compute: transformers' Llama in fp32 on the tool's own dequantized weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

NEW = 24
Activation = Callable[[torch.Tensor], torch.Tensor]


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint by name."""
    return {
        name: t for path in sorted(directory.glob("*.safetensors")) for name, t in load_file(path).items()
    }


def settings(directory: Path) -> dict[str, Any]:
    """The checkpoint's `quantization_config`."""
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())["quantization_config"]
    return found


def build(
    directory: Path,
    weights: Mapping[str, torch.Tensor],
    activations: Mapping[str, Activation] | None = None,
) -> Any:
    """The model in fp32.

    Args:
        directory: the checkpoint; gives config and every tensor that is not quantized.
        weights: module name -> dequantized weight `[out, in]`.
        activations: module name -> what is done to what comes into it.

    Raises:
        ValueError: a parameter is left without a value, or a bias that the model does not have is not 0.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = json.loads((directory / "config.json").read_text())
    config.pop("quantization_config")
    config.pop("dtype", None)
    config.pop("torch_dtype", None)
    found: Any = LlamaConfig(**config)
    found._attn_implementation = "eager"
    model: Any = LlamaForCausalLM(found)
    model = model.float().eval()
    own = model.state_dict()
    state = {f"{name}.weight": weight.float() for name, weight in weights.items()}
    for name, tensor in tensors(directory).items():
        if name in own:
            state.setdefault(name, tensor.float())
        elif name.endswith(".bias") and tensor.count_nonzero():
            raise ValueError(f"{name} is not 0, and the model has no such parameter.")
    if config["tie_word_embeddings"]:
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    if missing := set(own) - set(state):
        raise ValueError(f"No value for {sorted(missing)}.")
    model.load_state_dict(state)
    for name, change in (activations or {}).items():
        model.get_submodule(name).register_forward_pre_hook(_changing(change))
    return model


@torch.inference_mode()
def perplexity(model: Any, texts: Sequence[list[int]]) -> float:
    """exp of the mean negative log likelihood of every token after a text's first."""
    total, count = 0.0, 0
    for ids in texts:
        tokens = torch.tensor([ids])
        logits = model(tokens, use_cache=False).logits[0, :-1].float()
        total += float(torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum"))
        count += len(ids) - 1
    return math.exp(total / count)


@torch.inference_mode()
def save(
    directory: Path,
    model: Any,
    prompts: Sequence[list[int]],
    tool: str,
    texts: Sequence[list[int]] | None = None,
) -> None:
    """Write `reference/cases.json` and `reference/logits.safetensors` into a checkpoint's directory.

    Args:
        directory: the checkpoint.
        model: what `build` made.
        prompts: token ids.
        tool: name and version of what wrote the checkpoint.
        texts: what its perplexity is measured on; None leaves that out.
    """
    logits, greedy, margins = {}, [], []
    for index, prompt in enumerate(prompts):
        logits[f"logits.{index}"] = model(torch.tensor([prompt]), use_cache=False).logits[0].contiguous()
        ids, margin = list(prompt), []
        for _ in range(NEW):
            best = model(torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
            ids.append(int(best.indices[0]))
            margin.append(round(float(best.values[0] - best.values[1]), 5))
        greedy.append(ids[len(prompt) :])
        margins.append(margin)
    # In a directory of its own, for every safetensors file beside the weights may be taken for weights.
    own = directory / "reference"
    own.mkdir()
    save_file(logits, own / "logits.safetensors")
    told: dict[str, Any] = {"tool": tool, "prompts": list(prompts), "greedy": greedy, "margins": margins}
    if texts is not None:
        told["perplexity"] = perplexity(model, texts)
    (own / "cases.json").write_text(json.dumps(told) + "\n")


def _changing(change: Activation) -> Callable[[Any, tuple[torch.Tensor]], tuple[torch.Tensor]]:
    return lambda _, args: (change(args[0]),)
