"""Which checkpoints are made: tool, source model and settings of each. Imports none of the tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Tool = Literal["autoawq", "autogptq", "gptqmodel", "llmcompressor", "llmcompressor_0_6"]
TOOLS: tuple[Tool, ...] = ("autoawq", "autogptq", "gptqmodel", "llmcompressor", "llmcompressor_0_6")


@dataclass(frozen=True, slots=True)
class Variant:
    """A checkpoint to make.

    Attributes:
        tool: what writes it.
        model: the source: "narrow", "wide", "biased", "untied" (see `sources`) or "tiny", the bundled model.
        method: the `quant_method` that its config.json says.
        settings: the tool's own, as its documentation names them.
        kept: whether the repository holds it, for `make test`.
    """

    tool: Tool
    model: str
    method: Literal["gptq", "awq", "compressed-tensors"]
    settings: Mapping[str, Any] = field(default_factory=dict)
    kept: bool = False


def _gptqmodel(model: str, *, kept: bool = False, **settings: Any) -> Variant:
    plain = {"bits": 4, "group_size": 32, "sym": True, "desc_act": False, "act_group_aware": False}
    return Variant("gptqmodel", model, "gptq", {**plain, **settings}, kept)


def _autogptq(model: str, *, kept: bool = False, **settings: Any) -> Variant:
    plain = {"bits": 4, "group_size": 32, "sym": True, "desc_act": False}
    return Variant("autogptq", model, "gptq", {**plain, **settings}, kept)


def _autoawq(model: str, version: str, group_size: int, *, kept: bool = False, **settings: Any) -> Variant:
    plain = {"w_bit": 4, "q_group_size": group_size, "zero_point": True, "version": version}
    return Variant("autoawq", model, "awq", {**plain, **settings}, kept)


def _compressor(model: str, *, kept: bool = False, gptq: bool = False, **settings: Any) -> Variant:
    return Variant("llmcompressor", model, "compressed-tensors", {"gptq": gptq, **settings}, kept)


def _weights(bits: int, group_size: int | None = None, **more: Any) -> dict[str, Any]:
    """A compressed-tensors weight scheme."""
    scheme = {"num_bits": bits, "type": "int", "symmetric": True, "strategy": "channel", **more}
    return scheme if group_size is None else {**scheme, "strategy": "group", "group_size": group_size}


def _older_compressor(**scheme: Any) -> Variant:
    return Variant("llmcompressor_0_6", "narrow", "compressed-tensors", {"weights": scheme}, kept=True)


_HEAD = {"lm_head": {"bits": 8, "group_size": 32, "sym": True, "desc_act": False}}
_LAYERS = {
    r"-:.*layers\.0\.mlp\.down_proj.*": {},
    r".*layers\.0\.self_attn\..*": {"bits": 8, "group_size": 64},
}

VARIANTS: dict[str, Variant] = {
    # bits, groups, symmetry
    "gptq-b2-g32": _gptqmodel("narrow", bits=2),
    "gptq-b3-g32": _gptqmodel("narrow", bits=3),
    "gptq-b3-g64-asym": _gptqmodel("narrow", bits=3, group_size=64, sym=False, kept=True),
    "gptq-b4-g128": _gptqmodel("wide", group_size=128),
    "gptq-b4-g64-asym": _gptqmodel("narrow", group_size=64, sym=False),
    "gptq-b4-whole": _gptqmodel("narrow", group_size=-1),
    "gptq-b8-g64": _gptqmodel("narrow", bits=8, group_size=64),
    "gptq-b8-whole-asym": _gptqmodel("narrow", bits=8, group_size=-1, sym=False),
    # the order of activations
    "gptq-b4-g32-act": _gptqmodel("narrow", desc_act=True),
    "gptq-b4-g32-act-aware": _gptqmodel("narrow", act_group_aware=True),
    "gptq-b4-g32-act-static": _gptqmodel("narrow", desc_act=True, static_groups=True),
    "gptq-b4-g32-asym-act-v2": _gptqmodel("narrow", sym=False, desc_act=True, format="gptq_v2", kept=True),
    "gptq-b2-g64-asym-v2": _gptqmodel("narrow", bits=2, group_size=64, sym=False, format="gptq_v2"),
    # single modules
    "gptq-b4-g32-biased": _gptqmodel("biased"),
    "gptq-b4-g32-lm-head": _gptqmodel("untied", lm_head=True, dynamic=_HEAD, kept=True),
    "gptq-b4-g32-dynamic": _gptqmodel("narrow", dynamic=_LAYERS, kept=True),
    # the older tool: zero biases, no checkpoint_format
    "autogptq-b2-g32-asym": _autogptq("narrow", bits=2, sym=False),
    "autogptq-b3-whole": _autogptq("narrow", bits=3, group_size=-1),
    "autogptq-b4-g64-asym-act": _autogptq("narrow", group_size=64, sym=False, desc_act=True, kept=True),
    "autogptq-b4-g32-act-static": _autogptq("narrow", desc_act=True, static_groups=True),
    "autogptq-b8-g32": _autogptq("narrow", bits=8),
    "autogptq-b4-g128-biased": _autogptq("wide", group_size=128),
    # AWQ's layouts
    "awq-gemm-g32": _autoawq("narrow", "gemm", 32, kept=True),
    "awq-gemm-g64": _autoawq("narrow", "gemm", 64),
    "awq-gemm-g128": _autoawq("wide", "gemm", 128),
    "awq-gemm-g32-biased": _autoawq("biased", "gemm", 32),
    "awq-gemm-g32-partly": _autoawq("narrow", "gemm", 32, modules_to_not_convert=["k_proj", "o_proj"]),
    "awq-gemv-g32": _autoawq("narrow", "gemv", 32),
    "awq-gemv-g64": _autoawq("narrow", "gemv", 64, kept=True),
    "awq-gemv-g128": _autoawq("wide", "gemv", 128),
    "awq-gemv-fast-g64": _autoawq("narrow", "gemv_fast", 64, kept=True),
    "awq-gemv-fast-g128": _autoawq("wide", "gemv_fast", 128),
    # AutoAWQ's own packers want zero points
    "awq-gemm-g32-sym": Variant(
        "gptqmodel", "narrow", "awq", {"bits": 4, "group_size": 32, "sym": True, "awq": "gemm"}
    ),
    # compressed-tensors
    "ct-w4a16-g32": _compressor("narrow", weights=_weights(4, 32)),
    "ct-w4a16-g64-asym": _compressor("narrow", weights=_weights(4, 64, symmetric=False), kept=True),
    "ct-w4a16-g128": _compressor("wide", weights=_weights(4, 128)),
    "ct-w4a16-g32-act-static": _compressor("narrow", gptq=True, weights=_weights(4, 32, actorder="weight")),
    "ct-w8a16": _compressor("narrow", weights=_weights(8)),
    "ct-w8a16-g64-asym": _compressor("narrow", weights=_weights(8, 64, symmetric=False)),
    "ct-w8a8": _compressor("narrow", preset="W8A8", kept=True),
    "ct-fp8": _compressor("narrow", preset="FP8_DYNAMIC", kept=True),
    "ct-fp8-static": _compressor("narrow", preset="FP8", kept=True),
    # Later versions no longer write groups in the order of activations.
    "ct-w4a16-g32-asym-act": _older_compressor(**_weights(4, 32, symmetric=False, actorder="group")),
    "ct-w4a16-partly": _compressor("narrow", weights=_weights(4, 32), ignore=["lm_head", "re:.*down_proj"]),
    "ct-mixed": _compressor(
        "narrow",
        groups={
            "attention": {"targets": ["re:.*self_attn.*"], "weights": _weights(8)},
            "mlp": {"targets": ["re:.*mlp.*"], "weights": _weights(4, 32)},
        },
    ),
    # the bundled model, whose words can be judged
    "tiny-gptq-b4-g128": _gptqmodel("tiny", group_size=128),
    "tiny-gptq-b8-g32-act": _gptqmodel("tiny", bits=8, desc_act=True),
    "tiny-autogptq-b4-g64": _autogptq("tiny", group_size=64, sym=False),
    "tiny-awq-g128": _autoawq("tiny", "gemm", 128),
    "tiny-awq-gemv-g64": _autoawq("tiny", "gemv", 64),
    "tiny-ct-w4a16-g128": _compressor("tiny", gptq=True, weights=_weights(4, 128)),
    "tiny-ct-w8a8": _compressor("tiny", gptq=True, preset="W8A8"),
    "tiny-ct-fp8": _compressor("tiny", preset="FP8_DYNAMIC"),
}
"""By name, which is also the name of the directory."""


def of_tool(tool: str) -> list[str]:
    """Names of what a tool writes."""
    return [name for name, variant in VARIANTS.items() if variant.tool == tool]
