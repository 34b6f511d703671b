"""The worker's KV tensors: allocated as the backends declare, copied and cleared by whole blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from quire.contracts import AttentionBackend, KVLayout
from quire.plan import BlockCopy
from quire.runtime.dtypes import torch_dtype


def layout_bytes(layout: KVLayout) -> int:
    """Bytes of one layer's tensors."""
    return sum(math.prod(t.shape) * torch_dtype(t.dtype).itemsize for t in layout.tensors.values())


class KVCache:
    """KV storage of all layers.

    Attributes:
        layers: per attention layer, its tensors by name.
    """

    def __init__(
        self,
        backends: Sequence[AttentionBackend],
        group_of_layer: Sequence[int],
        num_blocks: int,
        device: str,
    ) -> None:
        """Allocate.

        Args:
            backends: one per KV group.
            group_of_layer: KV group of each attention layer.
            num_blocks: blocks per group, null block included.
            device: torch device string.
        """
        self._group_of_layer = group_of_layer
        self._layouts = [backend.kv_layout(num_blocks) for backend in backends]
        # Zeros, not empty: what a masked position holds must be finite, since 0 * NaN is NaN. On a
        # CPU such pages cost nothing until they are written.
        self.layers: list[Mapping[str, torch.Tensor]] = [
            {
                name: torch.zeros(tensor.shape, dtype=torch_dtype(tensor.dtype), device=device)
                for name, tensor in self._layouts[group].tensors.items()
            }
            for group in group_of_layer
        ]

    @staticmethod
    def bytes_per_block(backends: Sequence[AttentionBackend], group_of_layer: Sequence[int]) -> int:
        """Bytes that one more block in every group costs, over all layers."""
        per_group = [layout_bytes(b.kv_layout(3)) - layout_bytes(b.kv_layout(2)) for b in backends]
        return sum(per_group[group] for group in group_of_layer)

    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(tensor.nbytes for layer in self.layers for tensor in layer.values())

    def copy(self, copies: Iterable[BlockCopy]) -> None:
        """Copy whole blocks, all layers of their group."""
        for copy in copies:
            for axis, tensor in self._tensors(copy.group):
                tensor.select(axis, copy.dst).copy_(tensor.select(axis, copy.src))

    def clear(self, group: int, blocks: Iterable[int]) -> None:
        """Zero whole blocks, all layers of the group."""
        for block in blocks:
            for axis, tensor in self._tensors(group):
                tensor.select(axis, block).zero_()

    def _tensors(self, group: int) -> Iterable[tuple[int, torch.Tensor]]:
        layout = self._layouts[group].tensors
        for layer, tensors in zip(self._group_of_layer, self.layers, strict=True):
            if layer == group:
                for name, tensor in tensors.items():
                    yield layout[name].block_axis, tensor
