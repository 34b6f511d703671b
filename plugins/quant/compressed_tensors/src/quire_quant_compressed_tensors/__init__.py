"""Checkpoints in the compressed-tensors format, as llm-compressor writes them. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import QuantizationSpec, hookimpl


@hookimpl
def quire_quantizations() -> Iterable[QuantizationSpec]:
    """`compressed-tensors`: several schemes under one name; every module is read by its own."""
    yield QuantizationSpec(
        name="compressed-tensors",
        api=1,
        target="quire_quant_compressed_tensors.quantization:CompressedTensors",
        options="quire.layers:HeadOptions",
        matches=frozenset({"compressed-tensors"}),
        summary="Reads llm-compressor's checkpoints: W4A16, W8A16, int8 and FP8",
    )
