"""`CompressedTensors`: which modules of a checkpoint are quantized, and by which scheme each is read."""

from __future__ import annotations

from quire.contracts import LinearPart, QuantizationInit, QuantizationNeed, Span
from quire.errors import CheckpointError, UnsupportedModelError
from quire.layers import StoredFormat, StoredModule
from quire_quant_compressed_tensors.modules import MODULES
from quire_quant_compressed_tensors.schemes import Schemes

_QUANTIZED = frozenset({"I8", "F8_E4M3", "F8_E5M2", "U8"})
"""Types of a tensor `weight` that are no plain weight's."""

_SUFFIXES = ("weight_packed", "weight_scale")
"""Tensors that only a quantized module has."""


class CompressedTensors(StoredFormat):
    """Reads what llm-compressor wrote.

    A module's own tensors say whether it is quantized, the settings how.
    """

    @classmethod
    def reject(cls, need: QuantizationNeed) -> str | None:
        """Refuses schemes that are not implemented."""
        try:
            Schemes(need.config)
        except UnsupportedModelError as error:
            return str(error)
        except CheckpointError:
            pass  # opening it says so
        return None

    def __init__(self, init: QuantizationInit) -> None:
        super().__init__(init)
        self._schemes = Schemes(init.need.config)

    def module(self, part: LinearPart, inp: Span) -> StoredModule | None:
        """How the module is stored; None if it was left as it is."""
        tensor = self._quantized_tensor(part.name)
        if tensor is None and f"{part.name}.weight" in self.init.headers:
            return None
        name = self.init.stored_name(part.name, _SUFFIXES)
        scheme = self._schemes.of(name)
        if scheme is not None:
            return MODULES[scheme.kind](part, inp, self.init.headers, scheme)
        if tensor is not None:
            raise CheckpointError(
                f"{self.init.headers[tensor].file}: tensor {tensor!r} is a quantized module's, but "
                f"quantization_config ignores {name!r}, or no target of its config_groups names it: "
                "its scheme is not known."
            )
        return None

    def _quantized_tensor(self, module: str) -> str | None:
        """A tensor by which the module is seen to be quantized."""
        headers = self.init.headers
        for suffix in _SUFFIXES:
            if f"{module}.{suffix}" in headers:
                return f"{module}.{suffix}"
        weight = headers.get(f"{module}.weight")
        return f"{module}.weight" if weight is not None and weight.dtype in _QUANTIZED else None
