"""Holds a quantized checkpoint's engine against the reference that lies in its directory.

The reference is transformers in fp32 on the weights that the writing tool itself dequantizes (see
`tools/checkpoint_recipes`): logits of three prompts, 24 greedy tokens of each and their top-2 margins.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from quire import LLM, RequestOutput, SamplingParams


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far log probabilities may be off, as a share of the largest logit.

    Attributes:
        worst: any one.
        rms: the root of the mean square, over all positions of all prompts.
    """

    worst: float
    rms: float


WEIGHTS = {"float32": Tolerance(2e-5, 4e-6), "bfloat16": Tolerance(4e-2, 1e-2)}
"""Where only weights are quantized: what sums in another order, or in bf16, leave."""

ACTIVATIONS = {"float32": Tolerance(8e-2, 1.5e-2), "bfloat16": Tolerance(2e-1, 3e-2)}
"""Where activations are, too. What lies between two codes may be rounded to either, which moves a value in
FP8 by an eighth; and for int8 the tool takes the largest magnitude as 127.5, Quire as 127."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the checkpoint should compute.

    Attributes:
        prompts: token ids.
        logits: per prompt `[T, V]` fp32.
        greedy, margins: per prompt and step the token, and how far its logit is above the next one's.
        activations: whether the format quantizes activations, too.
    """

    prompts: list[list[int]]
    logits: list[torch.Tensor]
    greedy: list[list[int]]
    margins: list[list[float]]
    activations: bool

    @classmethod
    def read(cls, directory: Path) -> Reference:
        """What lies in a checkpoint's directory."""
        told = json.loads((directory / "reference" / "cases.json").read_text())
        stored = load_file(directory / "reference" / "logits.safetensors")
        groups = quantization_config(directory).get("config_groups", {}).values()
        return cls(
            told["prompts"],
            [stored[f"logits.{index}"] for index in range(len(told["prompts"]))],
            told["greedy"],
            told["margins"],
            any(group.get("input_activations") for group in groups),
        )


def quantization_config(directory: Path) -> dict[str, Any]:
    """`quantization_config` of config.json."""
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())["quantization_config"]
    return found


def assert_equals_reference(directory: Path, dtype: str) -> None:
    """Logits within tolerance, greedy tokens equal where the margin allows, batched as alone.

    Args:
        directory: the checkpoint, with its reference.
        dtype: what is computed in.
    """
    reference = Reference.read(directory)
    tolerance = (ACTIVATIONS if reference.activations else WEIGHTS)[dtype]
    llm = LLM(
        str(directory),
        dtype=dtype,
        max_num_seqs=4,
        max_logprobs=reference.logits[0].shape[1],
        kv_cache_memory_bytes="4MiB",
        enable_prefix_caching=False,
        show_progress=False,
    )
    try:
        alone = [_generate(llm, [prompt])[0] for prompt in reference.prompts]
        batched = _generate(llm, reference.prompts)
    finally:
        llm.shutdown()
    for outputs in (alone, batched):
        _assert_prompts(reference, outputs, tolerance)
        _assert_greedy(reference, outputs, tolerance)


def _generate(llm: LLM, prompts: Sequence[list[int]]) -> list[RequestOutput]:
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True, prompt_logprobs=100)
    return llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], params, use_tqdm=False)


def _assert_prompts(reference: Reference, outputs: Sequence[RequestOutput], tolerance: Tolerance) -> None:
    """Log probabilities of the 100 likeliest tokens at every position, from the reference's logits."""
    squares = []
    for logits, output in zip(reference.logits, outputs, strict=True):
        assert output.prompt_logprobs is not None
        expected = logits.log_softmax(-1)
        scale = float(logits.abs().max())
        for row, entry in zip(expected[:-1], output.prompt_logprobs[1:], strict=True):
            assert entry is not None
            ids = list(entry)
            ours = torch.tensor([entry[token].logprob for token in ids])
            assert len(ids) >= 100
            off = (ours - row[ids]) / scale
            assert float(off.abs().max()) < tolerance.worst
            squares.append(off.square().mean())
    assert float(torch.stack(squares).mean().sqrt()) < tolerance.rms


def _assert_greedy(reference: Reference, outputs: Sequence[RequestOutput], tolerance: Tolerance) -> None:
    compared = 0
    for greedy, margins, logits, output in zip(
        reference.greedy, reference.margins, reference.logits, outputs, strict=True
    ):
        limit = 2 * tolerance.rms * float(logits.abs().max())
        for token, expected, margin in zip(output.outputs[0].token_ids, greedy, margins, strict=True):
            if margin < limit:
                break
            assert token == expected
            compared += 1
    assert compared > 0, "every first step was inside the tolerance"
