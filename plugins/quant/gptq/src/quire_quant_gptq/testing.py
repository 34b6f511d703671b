"""Small GPTQ checkpoints for tests, written by numpy from the format's description.

Rounds to the nearest code, which is no way to quantize a model that is to be used.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """How a checkpoint is written.

    Attributes:
        bits, group_size, desc_act, sym: as in its settings.
        stored_format: its `checkpoint_format`.
        gptqmodel: written by GPTQModel, which makes v1 from v2 by whole words.
    """

    bits: int = 4
    group_size: int = 32
    desc_act: bool = False
    sym: bool = False
    stored_format: str = "gptq"
    gptqmodel: bool = False

    def config(self) -> dict[str, Any]:
        """`quantization_config`."""
        return {
            "quant_method": "gptq",
            "bits": self.bits,
            "group_size": self.group_size,
            "desc_act": self.desc_act,
            "sym": self.sym,
            "checkpoint_format": self.stored_format,
            "meta": {"quantizer": ["gptqmodel:7.7.0" if self.gptqmodel else "auto_gptq:0.7.1"]},
        }

    def encode(self, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Tensors by suffix, and the weight `[N, K]` they stand for, rounded to the nearest code."""
        dense = weight.double().numpy().T  # [K, N]
        inputs, outputs = dense.shape
        size = inputs if self.group_size == -1 else self.group_size
        index = np.arange(inputs) // size
        if self.desc_act:  # as GPTQ does: inputs are grouped in the order they were worked on
            index = index[np.random.default_rng(0).permutation(inputs)]
        groups = int(index.max()) + 1
        top = 2**self.bits - 1
        scales = np.empty((groups, outputs), dtype=np.float16)
        zeros = np.empty((groups, outputs), dtype=np.int64)
        for group in range(groups):
            rows = dense[index == group]
            low, high = np.minimum(rows.min(0), 0), np.maximum(rows.max(0), 0)
            if self.sym:
                high = np.maximum(-low, high)
                low = -high
            scales[group] = (high - low) / top + 1e-4
            zeros[group] = (top + 1) // 2 if self.sym else np.rint(-low / scales[group]).clip(0, top)
        wide = scales.astype(np.float64)
        codes = (np.rint(dense / wide[index]) + zeros[index]).clip(0, top)
        tensors = {
            "qweight": pack(codes, self.bits),
            "qzeros": self._stored(zeros),
            "scales": torch.from_numpy(scales),
            "g_idx": torch.from_numpy(index.astype(np.int32)),
        }
        return tensors, torch.from_numpy(((codes - zeros[index]) * wide[index]).T).float().contiguous()

    def _stored(self, zeros: np.ndarray) -> torch.Tensor:
        by_words = self.gptqmodel and self.bits != 3
        if self.stored_format == "gptq" and not by_words:
            zeros = (zeros - 1) % 2**self.bits
        words = pack(zeros.T, self.bits).T.contiguous()
        if self.stored_format == "gptq" and by_words:
            words = words - {2: 0x55555555, 4: 0x11111111, 8: 0x01010101}[self.bits]
        return words


def pack(fields: np.ndarray, bits: int) -> torch.Tensor:
    """`[n, m]` fields into int32 words along axis 0, field i at bits [i * bits, (i + 1) * bits)."""
    count, columns = fields.shape
    words = np.zeros((-(-count * bits // 32), columns), dtype=np.uint64)
    for at, row in enumerate(fields.astype(np.uint64)):
        word, shift = at * bits // 32, np.uint64(at * bits % 32)
        words[word] |= row << shift & np.uint64(0xFFFFFFFF)
        if shift + bits > 32:
            words[word + 1] |= row >> np.uint64(32) - shift
    return torch.from_numpy(words.astype(np.uint32).view(np.int32).copy())


def quantize_directory(
    source: Path, target: Path, variant: Variant, *, plain: tuple[str, ...] = ("lm_head",)
) -> dict[str, torch.Tensor]:
    """Write a float checkpoint's projections in GPTQ; the rest stays as it is.

    Returns:
        All tensors of the checkpoint, with the quantized weights dequantized.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in source.glob("*.safetensors"):
        tensors |= load_file(path)
    written, dense = {}, {}
    for name, tensor in tensors.items():
        module, _, suffix = name.rpartition(".")
        last = module.rpartition(".")[2]
        if suffix != "weight" or not last.endswith(("_proj", "lm_head")) or last in plain:
            written[name] = dense[name] = tensor
            continue
        encoded, dense[name] = variant.encode(tensor)
        written |= {f"{module}.{part}": value for part, value in encoded.items()}
        if f"{module}.bias" not in tensors:
            written[f"{module}.bias"] = torch.zeros(len(tensor), dtype=torch.float16)
    target.mkdir()
    save_file(written, target / "model.safetensors")
    for path in source.glob("*.json"):
        if not path.name.endswith(".index.json"):
            (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = variant.config()
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return dense
