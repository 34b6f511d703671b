"""Checkpoints as they are found in the wild."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.errors import CheckpointError
from quire.ops import Kernels
from quire.ops.torch_cpu import TorchCpuKernels
from quire.testing.model import Reference, assert_logits_equal, save_random_checkpoint
from quire.testing.runner import PagedRunner
from quire.weights.checkpoint import Checkpoint
from quire_models_llama.model import LlamaFamily


def _runner(
    reference: Reference, dtype: torch.dtype = torch.float32, kernels_class: type[Kernels] = Kernels
) -> PagedRunner:
    from quire_attn_torch.backend import TorchAttention

    return PagedRunner(
        LlamaFamily,
        reference.config,
        Checkpoint(reference.directory),
        attention_class=TorchAttention,
        kernels_class=kernels_class,
        dtype=dtype,
    )


def _rewrite(reference: Reference, changes: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """The checkpoint in one file, cast, with tensors added or replaced."""
    tensors: dict[str, torch.Tensor] = {}
    for path in reference.directory.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    for index in reference.directory.glob("*.index.json"):
        index.unlink()
    cast = {name: tensor.to(dtype) for name, tensor in (tensors | changes).items()}
    save_file(cast, reference.directory / "model.safetensors")


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    return save_random_checkpoint(
        tmp_path,
        {
            "model_type": "llama",
            "vocab_size": 50,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "tie_word_embeddings": True,
        },
    )


def _check(reference: Reference) -> None:
    runner = _runner(reference)
    ids = reference.prompts["prompt7"]
    runner.add("a", ids)
    assert_logits_equal(runner.run({"a": len(ids)})["a"], reference.logits(ids))


def test_frequencies_and_a_redundant_tied_head_are_known(reference: Reference) -> None:
    """Both are written by older conversions; neither is read: the head's here is nonsense."""
    _rewrite(
        reference,
        {
            "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4),
            "lm_head.weight": torch.full((50, 32), 7.0),
        },
        torch.float32,
    )
    _check(reference)


def test_a_redundant_head_of_another_shape_is_an_error(reference: Reference) -> None:
    _rewrite(reference, {"lm_head.weight": torch.zeros(51, 32)}, torch.float32)
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' has shape \[51, 32\], expected \[50, 32\]"):
        _runner(reference)


def test_a_tensor_nobody_knows_is_an_error(reference: Reference) -> None:
    _rewrite(reference, {"model.layers.2.mlp.up_proj.weight": torch.zeros(48, 32)}, torch.float32)
    with pytest.raises(CheckpointError, match=r"unexpected tensor 'model\.layers\.2\.mlp"):
        _runner(reference)


def test_an_unasked_bias_is_used(reference: Reference) -> None:
    """All zero, as quantizing tools leave them behind: nothing changes, and nothing is unexpected."""
    _rewrite(reference, {"model.layers.0.mlp.down_proj.bias": torch.zeros(32)}, torch.float32)
    _check(reference)


def test_kernels_that_pack_give_the_same(reference: Reference) -> None:
    """A tied head is packed beside the table that the embedding still reads."""
    runner = _runner(reference, kernels_class=TorchCpuKernels)
    ids = reference.prompts["prompt7"]
    runner.add("a", ids)
    assert_logits_equal(runner.run({"a": len(ids)})["a"], reference.logits(ids))


def test_half_precision_runs(reference: Reference) -> None:
    _rewrite(reference, {}, torch.bfloat16)
    runner = _runner(reference, torch.bfloat16)
    ids = reference.prompts["prompt7"]
    runner.add("a", ids)
    logits = runner.run({"a": len(ids)})["a"]
    assert logits.dtype == torch.bfloat16
    theirs = reference.logits(ids)
    assert (logits.float() - theirs).abs().max() < 0.1 * theirs.abs().max()
