"""GPTQ checkpoints, as AutoGPTQ and GPTQModel write them. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import QuantizationSpec, hookimpl


@hookimpl
def quire_quantizations() -> Iterable[QuantizationSpec]:
    """`gptq`: chosen by the checkpoint's `quant_method`."""
    yield QuantizationSpec(
        name="gptq",
        api=1,
        target="quire_quant_gptq.quantization:Gptq",
        options="quire.layers:HeadOptions",
        matches=frozenset({"gptq"}),
        summary="GPTQ checkpoints: 2, 3, 4, 8 bits, act-order, formats v1 and v2",
    )
