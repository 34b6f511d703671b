"""Writing a trained model in the Hugging Face checkpoint format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from tiny_model.head import Eagle3
from tiny_model.model import Llama
from tiny_model.presets import VOCAB_SIZE, HeadPreset, Preset
from tiny_model.tokenizer import BOS, END, EOS, PAD, token_id, write_tokenizer

#: The bundled weights travel inside a wheel; this is the most one file may weigh.
MAX_WEIGHT_BYTES = 10_000_000


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _config(preset: Preset, ids: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": preset.hidden,
        "intermediate_size": preset.intermediate,
        "num_hidden_layers": preset.layers,
        "num_attention_heads": preset.heads,
        "num_key_value_heads": preset.kv_heads,
        "head_dim": preset.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": preset.max_positions,
        "rms_norm_eps": preset.rms_eps,
        "rope_theta": preset.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": ids[BOS],
        "eos_token_id": ids[EOS],
        "pad_token_id": ids[PAD],
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": "bfloat16",
    }


def _head_config(preset: HeadPreset, ids: dict[str, int]) -> dict[str, Any]:
    """As trainers of such heads write it: they name layers by what leaves them, and count from 0."""
    return {
        **_config(preset, ids),
        "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": VOCAB_SIZE,
        "target_hidden_size": preset.hidden,
        "tie_word_embeddings": False,
        "eagle_config": {
            "eagle_aux_hidden_state_layer_ids": [depth - 1 for depth in preset.depths],
            "use_aux_hidden_state": True,
        },
    }


def export_head(head: Eagle3, tokenizer: Tokenizer, preset: HeadPreset, out: Path) -> int:
    """Write config and weights of a head into `out`; the size of the weight file."""
    ids = {token: token_id(tokenizer, token) for token in (BOS, EOS, PAD)}
    write_json(out / "config.json", _head_config(preset, ids))
    return _save(dict(head.named_parameters()), out)


def export(model: Llama, tokenizer: Tokenizer, preset: Preset, out: Path) -> int:
    """Write config, weights, tokenizer and generation defaults into `out`; the size of the weight file."""
    ids = {token: token_id(tokenizer, token) for token in (BOS, EOS, PAD, END)}
    write_json(out / "config.json", _config(preset, ids))
    write_json(
        out / "generation_config.json",
        {
            "bos_token_id": ids[BOS],
            "eos_token_id": [ids[EOS], ids[END]],
            "pad_token_id": ids[PAD],
            "do_sample": True,
            "temperature": 0.7,
            "top_p": 0.9,
        },
    )
    write_tokenizer(tokenizer, out, preset.max_positions)
    return _save({f"model.{name}": p for name, p in model.named_parameters()}, out)


def _save(parameters: dict[str, torch.nn.Parameter], out: Path) -> int:
    weights = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in parameters.items()}
    path = out / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes files that only their owner can read
    size = path.stat().st_size
    if size > MAX_WEIGHT_BYTES:
        raise ValueError(
            f"{path} has {size} bytes, over the {MAX_WEIGHT_BYTES} that may be bundled; shrink the preset"
        )
    return size
