"""Rotary position embeddings (Su et al. 2021, https://arxiv.org/abs/2104.09864) as tables.

Knows every scaling variant that checkpoints name in config.json; knows no kernel. Variants:

* ``default``: the paper's.
* ``linear``: frequencies divided by `factor` (position interpolation, https://arxiv.org/abs/2306.15595).
* ``dynamic``: the base grows with the length ("NTK-aware"). transformers recomputes it whenever a longer
  sequence arrives; a server's cached keys are rotated once and for all, so the table here is made for
  `max_model_len`. Up to the model's original context the two are equal; with a longer `max_model_len`
  they are equal for sequences of that length, and shorter ones see the frequencies of the longest.
* ``yarn``: interpolation by frequency band with an attention factor (https://arxiv.org/abs/2309.00071).
* ``llama3``: interpolation of the long wavelengths only (Llama 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from quire.errors import UnsupportedModelError

DEFAULT_THETA = 10_000.0


@dataclass(frozen=True, slots=True)
class RopeParameters:
    """What a config.json says about its rotary embedding, in one form.

    Attributes:
        rope_type: variant, a key of `VARIANTS`.
        theta: base of the frequencies.
        rotary_dim: elements of a head that are rotated.
        max_position_embeddings: the config's context length.
        options: the variant's own numbers, e.g. `{"factor": 8.0}`.
    """

    rope_type: str
    theta: float
    rotary_dim: int
    max_position_embeddings: int
    options: Mapping[str, Any]

    @classmethod
    def read(cls, config: Mapping[str, Any], head_dim: int, layer_type: str | None = None) -> RopeParameters:
        """From `rope_parameters` (flat, or nested by layer type), or the older `rope_scaling`, `rope_theta`.

        Raises:
            UnsupportedModelError: the variant is unknown, or a number it needs is missing.
        """
        found = config.get("rope_parameters") or config.get("rope_scaling") or {}
        if isinstance(found.get(layer_type), Mapping):
            found = found[layer_type]
        options = {key: value for key, value in found.items() if value is not None}
        rope_type = options.pop("rope_type", None) or options.pop("type", None) or "default"
        options.pop("type", None)
        if rope_type not in VARIANTS:
            raise UnsupportedModelError(
                f"Unknown rope type {rope_type!r}. Choose one of: {', '.join(sorted(VARIANTS))}."
            )
        theta = options.pop("rope_theta", None) or config.get("rope_theta") or DEFAULT_THETA
        share = options.pop("partial_rotary_factor", None) or config.get("partial_rotary_factor") or 1.0
        context = int(config.get("max_position_embeddings") or 2048)
        if rope_type in ("yarn", "llama3"):
            original = config.get("original_max_position_embeddings")
            if original is not None:
                options["original_max_position_embeddings"] = original
            options.setdefault("original_max_position_embeddings", context)
        if rope_type == "yarn":
            options.setdefault("factor", context / options["original_max_position_embeddings"])
        missing = [key for key in VARIANTS[rope_type].needs if key not in options]
        if missing:
            raise UnsupportedModelError(
                f"The checkpoint's rope type {rope_type!r} lacks {', '.join(missing)} in rope_parameters."
            )
        return cls(rope_type, float(theta), int(head_dim * share), context, options)

    def cache_key(self) -> tuple[object, ...]:
        """Equal for parameters that give equal tables."""
        options = tuple(sorted((key, str(value)) for key, value in self.options.items()))
        return (self.rope_type, self.theta, self.rotary_dim, self.max_position_embeddings, options)


def _powers(p: RopeParameters, base: float) -> torch.Tensor:
    exponents = torch.arange(0, p.rotary_dim, 2, dtype=torch.float32) / p.rotary_dim
    result: torch.Tensor = base**exponents
    return result  # [rotary_dim / 2]


def _default(p: RopeParameters, max_len: int) -> tuple[torch.Tensor, float]:
    return 1.0 / _powers(p, p.theta), 1.0


def _linear(p: RopeParameters, max_len: int) -> tuple[torch.Tensor, float]:
    return 1.0 / _powers(p, p.theta) / p.options["factor"], 1.0


def _dynamic(p: RopeParameters, max_len: int) -> tuple[torch.Tensor, float]:
    factor, context = p.options["factor"], p.max_position_embeddings
    stretch = factor * max(max_len, context) / context - (factor - 1)
    return 1.0 / _powers(p, p.theta * stretch ** (p.rotary_dim / (p.rotary_dim - 2))), 1.0


def _llama3(p: RopeParameters, max_len: int) -> tuple[torch.Tensor, float]:
    low, high = p.options["low_freq_factor"], p.options["high_freq_factor"]
    context = p.options["original_max_position_embeddings"]
    inv_freq = 1.0 / _powers(p, p.theta)
    turns = context * inv_freq / (2 * math.pi)  # rotations within the original context
    # 0 where the wavelength is long (interpolate wholly), 1 where it is short (leave alone).
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return inv_freq * keep + inv_freq / p.options["factor"] * (1 - keep), 1.0


def _yarn(p: RopeParameters, max_len: int) -> tuple[torch.Tensor, float]:
    options, dim = p.options, p.rotary_dim
    factor, context = options["factor"], options["original_max_position_embeddings"]

    def dimension_at(rotations: float) -> float:
        """The (fractional) pair of dimensions that turns this often within the original context."""
        return dim * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(p.theta))

    low = dimension_at(options.get("beta_fast") or 32)
    high = dimension_at(options.get("beta_slow") or 1)
    if options.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    interpolate = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    inv_freq = 1.0 / _powers(p, p.theta)
    inv_freq = inv_freq / factor * interpolate + inv_freq * (1 - interpolate)
    return inv_freq, _yarn_attention_factor(options, factor)


def _yarn_attention_factor(options: Mapping[str, Any], factor: float) -> float:
    """Multiplies cosines and sines, so attention logits by its square (section 3.4 of the paper)."""

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if options.get("attention_factor") is not None:
        return float(options["attention_factor"])
    if options.get("mscale") and options.get("mscale_all_dim"):
        return mscale(options["mscale"]) / mscale(options["mscale_all_dim"])
    return mscale(1.0)


@dataclass(frozen=True, slots=True)
class _Variant:
    """One rope type.

    Attributes:
        frequencies: `(parameters, max_len)` to inverse frequencies `[rotary_dim / 2]`, and a factor on
            cosines and sines.
        needs: options that have no default.
    """

    frequencies: Callable[[RopeParameters, int], tuple[torch.Tensor, float]]
    needs: tuple[str, ...] = ()


VARIANTS: dict[str, _Variant] = {
    "default": _Variant(_default),
    "linear": _Variant(_linear, ("factor",)),
    "dynamic": _Variant(_dynamic, ("factor",)),
    "yarn": _Variant(_yarn, ("factor",)),
    "llama3": _Variant(_llama3, ("factor", "low_freq_factor", "high_freq_factor")),
}


def rotary_table(parameters: RopeParameters, max_len: int) -> torch.Tensor:
    """Cosines, then sines, of every position: `[max_len, rotary_dim]` fp32, on the CPU."""
    inv_freq, factor = VARIANTS[parameters.rope_type].frequencies(parameters, max_len)
    angles = torch.arange(max_len, dtype=torch.float32)[:, None] * inv_freq  # [P, rotary_dim / 2]
    return torch.cat((angles.cos(), angles.sin()), dim=-1) * factor


class RotaryEmbedding(nn.Module):
    """A table that layers of equal parameters share; applied by the kernels or the attention backend.

    Attributes:
        cos_sin: `[P, rotary_dim]` fp32.
        interleaved: see `quire.contracts.Rope`.
    """

    def __init__(self, parameters: RopeParameters, max_len: int, device: str, interleaved: bool) -> None:
        super().__init__()
        self.interleaved = interleaved
        if device == "meta":
            self.cos_sin = torch.empty(max_len, parameters.rotary_dim, device=device)
        else:
            self.cos_sin = rotary_table(parameters, max_len).to(device)
