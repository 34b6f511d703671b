"""`Gptq`: which projections of a checkpoint are quantized, and with which settings each."""

from __future__ import annotations

from quire.contracts import LinearPart, QuantizationInit, QuantizationNeed, Span
from quire.errors import CheckpointError
from quire.layers import StoredFormat
from quire_quant_gptq.module import GptqModule
from quire_quant_gptq.settings import GptqSettings


class Gptq(StoredFormat):
    """Decides module by module: one that has a `qweight` is quantized, one that has a `weight` is plain."""

    @classmethod
    def reject(cls, need: QuantizationNeed) -> str | None:
        """Refuses checkpoints of another format, or of none."""
        method = need.config.get("quant_method")
        if method == "gptq":
            return None
        found = "is not quantized" if method is None else f"says quant_method {method!r}"
        return f"reads GPTQ checkpoints, and this one {found}"

    def __init__(self, init: QuantizationInit) -> None:
        """Read the settings.

        Raises:
            CheckpointError: they make no sense, or name a layout that is not read.
        """
        super().__init__(init)
        self._settings = GptqSettings.read(init.need.config)

    def module(self, part: LinearPart, inp: Span) -> GptqModule | None:
        headers, settings = self.init.headers, self._settings
        own = settings.module(self.init.stored_name(part.name, ("qweight", "weight")))
        if not headers:  # weights are made up: the settings alone tell
            stored = own is not None
        else:
            stored = f"{part.name}.qweight" in headers
            if not stored and f"{part.name}.weight" not in headers:
                raise CheckpointError(
                    f"Missing tensor {part.name + '.qweight'!r} (or {part.name + '.weight'!r}, if the module "
                    "was left unquantized). Fetch the checkpoint's files again."
                )
        if not stored:
            return None
        return GptqModule(part, inp, headers, own or settings.default, settings.stored_zeros)
