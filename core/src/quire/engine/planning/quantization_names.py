"""Which quantization is meant: by a name that a script written for vLLM passes, and by the checkpoint.

A checkpoint says itself how it is quantized, so a name is needed only for what is quantized while it is
loaded. Names of vLLM that mean the same format are taken; those of formats that Quire does not read are
refused with what to use instead. Knows names and installed plugins; reads no files, imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from quire.errors import PluginError, UnsupportedModelError
from quire.plugins import OK, PluginRegistry

__all__ = ["NamedQuantization", "resolve_quantization"]

_SAME = {
    "auto_awq": "awq",
    "autoawq": "awq",
    "awq_marlin": "awq",
    "auto_gptq": "gptq",
    "autogptq": "gptq",
    "gptq_marlin": "gptq",
    "gptqmodel": "gptq",
    "compressed_tensors": "compressed-tensors",
    "sparseml": "compressed-tensors",
}
"""Other names of formats that plugins read. vLLM's name a kernel; here the kernels plugin chooses."""

_W4 = "use an AWQ or GPTQ checkpoint of the model"
_FP8 = "use a compressed-tensors checkpoint with FP8 weights, or quantization='int8'"
_W8 = "quantization='int8' quantizes weights and activations of a plain checkpoint while it is loaded"
_FP4 = f"4-bit floating point is not read; {_W4}"
_EXPERTS = "models with experts are not built yet"
_INSTEAD = {
    "aqlm": _W4,
    "bitblas": _W4,
    "bitsandbytes": f"{_W4}, or {_W8}",
    "deepspeedfp": _FP8,
    "exl2": _W4,
    "exl3": _W4,
    "experts_int8": _EXPERTS,
    "fbgemm_fp8": _FP8,
    "fp8": _FP8,
    "fp8_per_block": _FP8,
    "fp8_per_channel": _FP8,
    "fp8_per_tensor": _FP8,
    "fp_quant": _FP4,
    "gguf": "use the model's safetensors checkpoint, plain or in AWQ or GPTQ",
    "gptq_bitblas": "its weights are in another order than GPTQ's; use the GPTQ checkpoint it was made from",
    "gptq_marlin_24": f"2:4 sparsity is not read; {_W4}",
    "gpt_oss_mxfp4": _FP4,
    "hqq": _W4,
    "inc": "use a checkpoint that AutoRound exported as GPTQ or AWQ",
    "int8_per_channel_weight_only": _W8,
    "ipex": "leave it out: AWQ and GPTQ checkpoints run on the CPU by Quire's own kernels",
    "marlin": "its weights are in another order than GPTQ's; use the GPTQ checkpoint it was made from",
    "modelopt": _FP8,
    "modelopt_fp4": _FP4,
    "modelopt_mixed": _FP8,
    "modelopt_mxfp8": _FP8,
    "moe_wna16": f"leave it out: the format is found by itself; {_EXPERTS}",
    "mxfp4": _FP4,
    "mxfp8": _FP8,
    "neuron_quant": "it is for a device that has no plugin; leave it out",
    "nvfp4": _FP4,
    "nvfp4_per_token": _FP4,
    "online": _W8,
    "ptpc_fp8": _FP8,
    "qqq": _W4,
    "quanto": _W4,
    "quark": f"use a compressed-tensors checkpoint, or {_W4.removeprefix('use ')}",
    "rtn": _W8,
    "sparsegpt": _W4,
    "squeezellm": _W4,
    "torchao": f"{_W4}, or {_W8}",
    "tpu_int8": _W8,
    "vptq": _W4,
}
"""Formats without a plugin -> what to do instead."""


@dataclass(frozen=True, slots=True)
class NamedQuantization:
    """What to choose by.

    Attributes:
        requested: name of the plugin that the user asked for, None to go by `stored`.
        stored: the checkpoint's own `quant_method`, by its usual name; "none" for a plain checkpoint.
        note: what was understood by another name, for the start-up report; empty if there is nothing to tell.
    """

    requested: str | None
    stored: str
    note: str = ""


def resolve_quantization(asked: str | None, stored: str, registry: PluginRegistry) -> NamedQuantization:
    """Understand both names, and refuse what cannot be.

    Args:
        asked: the setting `quantization`.
        stored: `quant_method` of the checkpoint; "none" if it names none.
        registry: what is installed. A plugin's own name always means that plugin.

    Raises:
        PluginError: the name is of a format that no plugin reads, or of another format than the checkpoint's.
        UnsupportedModelError: no name was given, and no plugin reads the checkpoint's format.
    """
    known = registry.of_kind("quantization")
    formats = {method for found in known for method in getattr(found.spec, "matches", ())}
    if stored not in formats:
        stored = _SAME.get(stored, stored)
    if asked is None:
        if stored not in formats and stored in _INSTEAD:
            raise UnsupportedModelError(
                f"The checkpoint's weights are in the format {stored!r}, which no installed plugin reads. "
                f"Instead: {_INSTEAD[stored]}."
            )
        return NamedQuantization(None, stored)
    owner, colon, name = asked.rpartition(":")
    plugins = {found.spec.name: found for found in known if not owner or found.distribution == owner}
    note = ""
    if name not in plugins:
        meant = _spelled(name, set(plugins) | formats)
        if meant is None:
            if name in _INSTEAD:
                raise PluginError(
                    f"quantization {asked!r} is not a format that Quire reads. Instead: {_INSTEAD[name]}."
                )
            return NamedQuantization(asked, stored)  # unknown: choosing says so
        note = f"quantization {asked!r} is {meant!r} here"
        name = meant
    chosen = plugins.get(name) or next(
        (found for found in plugins.values() if name in getattr(found.spec, "matches", ())), None
    )
    if chosen is None:
        return NamedQuantization(asked, stored)
    reads: frozenset[str] = getattr(chosen.spec, "matches", frozenset())
    if reads and stored not in reads and chosen.status == OK:
        raise PluginError(_contradiction(asked, sorted(reads), stored))
    return NamedQuantization(f"{owner}{colon}{chosen.spec.name}", stored, note)


def _spelled(name: str, known: set[str]) -> str | None:
    """The known name or format that another name means."""
    meant = _SAME.get(name.lower().replace("-", "_"), name.lower())
    for one in (meant, meant.replace("-", "_"), meant.replace("_", "-")):
        if one in known:
            return one
    return None


def _contradiction(asked: str, reads: list[str], stored: str) -> str:
    if stored == "none":
        return (
            f"quantization {asked!r} was asked for, and the checkpoint is not quantized: its config.json "
            f"has no quantization_config. Leave `quantization` out, use a checkpoint in "
            f"{' or '.join(reads)}, or set quantization='int8', which quantizes while loading."
        )
    return (
        f"quantization {asked!r} was asked for, and the checkpoint's quant_method is {stored!r}. "
        f"Leave `quantization` out: the format is found by itself."
    )
