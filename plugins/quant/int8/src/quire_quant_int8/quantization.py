"""`Int8`: which projections of a float checkpoint are quantized, and which are left as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import groupby

from quire.contracts import LinearMethod, LinearSpec, Quantization, QuantizationInit, QuantizationNeed
from quire.errors import ConfigError
from quire.layers import Unquantized
from quire_quant_int8.linear import Int8Linear
from quire_quant_int8.options import Int8Options

_HEAD = "lm_head"


class Int8(Quantization):
    """Quantizes every projection but those the options leave out; embeddings and norms stay as they are."""

    @classmethod
    def reject(cls, need: QuantizationNeed) -> str | None:
        """Refuses checkpoints that are quantized already."""
        if need.config:
            method = need.config.get("quant_method", "something unnamed")
            return f"quantizes float checkpoints, and this one is quantized already ({method})"
        return None

    def __init__(self, init: QuantizationInit) -> None:
        """Refuse patterns that match nothing.

        Raises:
            ConfigError: an entry of `skip` matches no module of the checkpoint.
        """
        super().__init__(init)
        self._options = init.options if isinstance(init.options, Int8Options) else Int8Options()
        self._plain = Unquantized(init)
        modules = [name.removesuffix(".weight") for name in init.headers]
        for pattern in self._options.skip:
            if modules and not any(fnmatchcase(name, pattern) for name in modules):
                raise ConfigError(
                    f"plugins.options.quantization.int8.skip: {pattern!r} matches no module of the "
                    f"checkpoint. They are named like {', '.join(repr(name) for name in modules[:3])}."
                )

    def linear(self, spec: LinearSpec) -> Sequence[LinearMethod]:
        methods: list[LinearMethod] = []
        for quantized, run in groupby(range(len(spec.parts)), lambda i: self._takes(spec.parts[i].name)):
            indices = list(run)
            part = spec.run(indices[0], indices[-1] + 1)
            methods += [Int8Linear(part, self.init)] if quantized else self._plain.linear(part)
        return methods

    def tied_head(self, spec: LinearSpec) -> LinearMethod | None:
        """int8 for the head alone: the embedding's table is read one row per token, and stays as it is."""
        return Int8Linear(spec, self.init) if self._takes(spec.parts[0].name) else None

    def _takes(self, module: str) -> bool:
        if not self._options.lm_head and module.rpartition(".")[2] == _HEAD:
            return False
        return not any(fnmatchcase(module, pattern) for pattern in self._options.skip)
