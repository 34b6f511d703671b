"""int8 weights with dynamic int8 activations, made from a float checkpoint as it is loaded. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import QuantizationSpec, hookimpl


@hookimpl
def quire_quantizations() -> Iterable[QuantizationSpec]:
    """`int8`: matches no checkpoint's `quant_method`; it is used when it is asked for by name."""
    yield QuantizationSpec(
        name="int8",
        api=1,
        target="quire_quant_int8.quantization:Int8",
        options="quire_quant_int8.options:Int8Options",
        summary="Quantizes a float checkpoint to int8 weights at load; activations per token",
    )
