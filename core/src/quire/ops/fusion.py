"""Whole blocks in one call, where kernels have one. The reference has none."""

from __future__ import annotations

from collections.abc import Sequence

from quire.contracts.fusion import DecoderLayerParts, FusedLayer, FusedStack


class FusionOps:
    """What may take the place of several operations."""

    def decoder_layer(self, parts: DecoderLayerParts) -> FusedLayer | None:
        """One callable for a whole decoder layer, or None: its operations are then called one by one.

        Asked once per layer, after its weights were packed, and only if everything in it is described by
        `parts`. None is also the answer to a layer of a kind, or on a backend, that is not fused.

        Args:
            parts: the layer; may be kept.
        """
        return None

    def decoder_stack(self, layers: Sequence[FusedLayer]) -> FusedStack | None:
        """One callable for consecutive layers, or None: they are then called one by one.

        Args:
            layers: what `decoder_layer` of these very kernels gave for each, in order; at least one.
        """
        return None
