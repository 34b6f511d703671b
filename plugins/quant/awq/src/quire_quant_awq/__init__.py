"""AWQ checkpoints, as AutoAWQ, llm-awq and GPTQModel write them. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import QuantizationSpec, hookimpl


@hookimpl
def quire_quantizations() -> Iterable[QuantizationSpec]:
    """`awq`: 4-bit weights with group scales and zero points; activations as they are."""
    yield QuantizationSpec(
        name="awq",
        api=1,
        target="quire_quant_awq.quantization:AWQ",
        options="quire.layers:HeadOptions",
        matches=frozenset({"awq"}),
        summary="Reads AWQ checkpoints (4 bit; gemm, gemv and gemv_fast layouts)",
    )
