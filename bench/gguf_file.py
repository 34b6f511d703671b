"""Writes a checkpoint of `checkpoint.py` as a GGUF file in bf16, for llama.cpp.

    VENV-OF-LLAMACPP/bin/python bench/gguf_file.py CHECKPOINT OUT.gguf

Runs where llama.cpp's `gguf` package and numpy are; needs neither torch nor Quire. llama.cpp rotates
neighbouring pairs where the checkpoint rotates halves, so rows of query and key projections change places.
The tokenizer is the checkpoint's bytes; the rest of the vocabulary is filled with unused tokens.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str) -> str:
    """A weight's name in GGUF: `model.layers.3.mlp.up_proj.weight` is `blk.3.ffn_up.weight`."""
    stem = name.removesuffix(".weight")
    if stem in OUTER_NAMES:
        return f"{OUTER_NAMES[stem]}.weight"
    _, _, layer, kind = stem.split(".", 3)
    return f"blk.{layer}.{BLOCK_NAMES[kind]}.weight"


def rope_divisors(rope: dict[str, Any], head_dim: int) -> list[float]:
    """What each rotary frequency is divided by under Llama 3's scaling.

    Frequencies whose wavelength is long against the original context are divided by the factor, short ones
    stay, and in between the two are mixed (Llama 3.1's reference implementation).
    """
    divisors = []
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    for pair in range(head_dim // 2):
        turns = original / (2 * math.pi * rope["rope_theta"] ** (2 * pair / head_dim))  # in the old context
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        divisors.append(1.0 / (kept + (1.0 - kept) / factor))
    return divisors


def read_tensors(path: Path) -> Iterator[tuple[str, Any]]:
    """Names and bf16 bit patterns (uint16, in the tensor's shape) of a safetensors file."""
    numpy: Any = import_module("numpy")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise SystemExit(f"{path}: {name} is {entry['dtype']}; this converts BF16 alone.")
        offset = 8 + length + entry["data_offsets"][0]
        yield name, numpy.memmap(path, "<u2", "r", offset, tuple(entry["shape"]))


def interleave_rotary(weight: Any, heads: int) -> Any:
    """Rows of a query or key projection in llama.cpp's order: pairs side by side instead of by halves."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.transpose(0, 2, 1, 3).reshape(rows, columns)


def write(checkpoint: Path, out: Path) -> None:
    """Write the file."""
    gguf: Any = import_module("gguf")
    numpy: Any = import_module("numpy")
    config = json.loads((checkpoint / "config.json").read_text())
    rope = config["rope_parameters"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    write_tokenizer(writer, gguf, checkpoint, config)
    if rope["rope_type"] == "llama3":
        divisors = numpy.array(rope_divisors(rope, config["head_dim"]), numpy.float32)
        writer.add_tensor("rope_freqs.weight", divisors)
    for name, bits in read_tensors(checkpoint / "model.safetensors"):
        if bits.ndim == 1:  # llama.cpp keeps norms in fp32
            writer.add_tensor(gguf_name(name), (bits.astype(numpy.uint32) << 16).view(numpy.float32))
            continue
        if "q_proj" in name:
            bits = interleave_rotary(bits, config["num_attention_heads"])
        elif "k_proj" in name:
            bits = interleave_rotary(bits, config["num_key_value_heads"])
        data = numpy.ascontiguousarray(bits).view(numpy.uint8)
        writer.add_tensor(gguf_name(name), data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_tokenizer(writer: Any, gguf: Any, checkpoint: Path, config: dict[str, Any]) -> None:
    """Write the vocabulary, as byte-level BPE."""
    known = json.loads((checkpoint / "tokenizer.json").read_text())["model"]
    size = config["vocab_size"]
    tokens, types = [f"<unused{number}>" for number in range(size)], [gguf.TokenType.UNUSED] * size
    for token, number in known["vocab"].items():
        tokens[number], types[number] = token, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    # no merges would be an empty list, whose type GGUF cannot tell: one that no text meets
    writer.add_token_merges([" ".join(merge) for merge in known["merges"]] or [f"{tokens[0]} {tokens[1]}"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def main() -> None:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write(args.checkpoint, args.out)


if __name__ == "__main__":
    main()
