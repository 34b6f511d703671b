"""`AWQ`: which modules of a checkpoint are quantized, and in which layout each is."""

from __future__ import annotations

from quire.contracts import LinearPart, QuantizationInit, QuantizationNeed, Span
from quire.errors import CheckpointError, UnsupportedModelError
from quire.layers import StoredFormat, StoredModule
from quire_quant_awq.decode import WORD
from quire_quant_awq.layouts import GROUP_SIZES, LAYOUTS, Layout
from quire_quant_awq.settings import Settings

_HEAD = "lm_head"


class AWQ(StoredFormat):
    """Reads what AutoAWQ, llm-awq and GPTQModel wrote.

    A module's own tensors say whether and how it is quantized.
    """

    @classmethod
    def reject(cls, need: QuantizationNeed) -> str | None:
        """Refuses bits and layouts that are not implemented."""
        try:
            Settings.read(need.config)
        except UnsupportedModelError as error:
            return str(error)
        except CheckpointError:
            pass  # opening it says so
        return None

    def __init__(self, init: QuantizationInit) -> None:
        super().__init__(init)
        self._settings = Settings.read(init.need.config)

    def module(self, part: LinearPart, inp: Span) -> StoredModule | None:
        """How the module is stored; None if it was left as it is."""
        headers, settings = self.init.headers, self._settings
        if f"{part.name}.qweight" not in headers and (
            f"{part.name}.weight" in headers or self._is_left_out(part.name)
        ):
            return None

        def stored(layout: type[Layout], group_size: int = settings.group_size) -> Layout:
            return layout(part, inp, headers, group_size=group_size, zero_point=settings.zero_point)

        layouts = [
            layout
            for layout in LAYOUTS.values()
            if part.out.full % WORD == 0 and inp.full % layout.inputs_multiple == 0
        ]
        module = next((found for layout in layouts if (found := stored(layout)).fits()), None)
        if module is None:
            # A module may have groups of its own, which no setting tells; shapes do, if one size alone fits.
            sizes = [size for size in GROUP_SIZES if inp.full % size == 0]
            own = [stored(layout, size) for layout in layouts for size in sizes]
            own = [found for found in own if found.fits("qweight", "scales", found.zeros)]
            module = own[0] if len(own) == 1 else stored(LAYOUTS[settings.version])
        module.check_headers()
        return module

    def _is_left_out(self, name: str) -> bool:
        if not self.init.headers and name.rpartition(".")[2] == _HEAD:
            return True  # no tool quantizes it unless told to, and nothing tells when weights are made up
        return any(entry in name for entry in self._settings.left_out)
