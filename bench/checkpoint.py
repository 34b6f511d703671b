"""The random checkpoints that the benchmarks share: public Llama shapes in bf16, with a tokenizer of bytes.

    python bench/checkpoint.py [--form awq] [135m 1b tiny]

Speed depends on shapes and types, not on what a model has learnt. Each is made once and kept in the temporary
directory. The seed is fixed, so that every machine has the same weights. A form of 4 bits (see
`packed_checkpoint`) has those of the bf16 checkpoint, and lies beside it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

_COMMON: dict[str, Any] = {"tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2}

SHAPES: dict[str, dict[str, Any]] = {
    "135m": {  # SmolLM-135M's
        **_COMMON,
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "intermediate_size": 1536,
        "vocab_size": 49152,
        "max_position_embeddings": 2048,
    },
    "1b": {  # Llama-3.2-1B's
        **_COMMON,
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "intermediate_size": 8192,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    },
    "tiny": {  # for trying the harness itself
        **_COMMON,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "vocab_size": 32768,
        "max_position_embeddings": 2048,
    },
}


FORMS = ("bf16", "awq", "gptq")
"""As the weights may be kept."""


def checkpoint_path(name: str = "135m", form: str = "bf16") -> Path:
    """Where the checkpoint of that name and form is, or would be."""
    more = "" if form == "bf16" else f"-{form}"
    return Path(tempfile.gettempdir()) / f"quire-bench-llama-{name}{more}"


def make_checkpoint(name: str = "135m", form: str = "bf16") -> Path:
    """The checkpoint of that name (of `SHAPES`) and form (of `FORMS`); made if it is not there yet."""
    directory = checkpoint_path(name, form)
    if form != "bf16":
        if not (directory / "model.safetensors").exists():
            from packed_checkpoint import write_packed

            write_packed(make_checkpoint(name), directory, form)
        return directory
    if (directory / "tokenizer.json").exists():
        return directory
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(20240601)
    checkpoint: Any = LlamaForCausalLM(LlamaConfig(**SHAPES[name]))
    checkpoint.to(torch.bfloat16).save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def save_tokenizer(directory: Path) -> None:
    """A tokenizer of 256 tokens, one a byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer(tokenizer_object=backend).save_pretrained(directory)


def main() -> None:
    """Make those that are named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["135m"], help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--form", default="bf16", choices=FORMS, help="of the weights (bf16)")
    args = parser.parse_args()
    for name in args.names:
        if name not in SHAPES:
            parser.error(f"unknown checkpoint {name!r}; choose of {', '.join(SHAPES)}")
        print(make_checkpoint(name, args.form))


if __name__ == "__main__":
    main()
