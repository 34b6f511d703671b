"""A format of quantized checkpoints, but for how it stores a module.

Knows that parts are read one by one, and what becomes of a head that was left in floats; no format.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from quire.contracts import LinearMethod, LinearPart, LinearSpec, Quantization, Span
from quire.layers.quantized import StoredModule, quantized_linears
from quire.layers.rounded_head import RoundedHead, rounds_head

_HEAD = "lm_head"


class StoredFormat(Quantization):
    """Formats subclass it and say how a module is stored. Their options are `HeadOptions`, or none."""

    @abstractmethod
    def module(self, part: LinearPart, inp: Span) -> StoredModule | None:
        """How a module is stored; None if it was left as it is.

        Args:
            part: the module, and this worker's outputs of it.
            inp: this worker's inputs.

        Raises:
            CheckpointError: its tensors contradict the settings or each other.
        """

    def linear(self, spec: LinearSpec) -> Sequence[LinearMethod]:
        modules = [self.module(part, spec.inp) for part in spec.parts]
        if modules == [None] and spec.parts[0].name.rpartition(".")[2] == _HEAD and rounds_head(self.init):
            return [RoundedHead(spec, self.init)]
        return quantized_linears(spec, modules, self.init)

    def tied_head(self, spec: LinearSpec) -> LinearMethod | None:
        """Rounded for the head alone: the embedding's table is read one row per token, and stays as it is."""
        return RoundedHead(spec, self.init) if rounds_head(self.init) else None
