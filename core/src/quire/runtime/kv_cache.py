"""The worker's KV tensors: allocated as the backends declare, copied and cleared by whole blocks."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence

import torch

from quire.contracts import AttentionBackend, KVLayout
from quire.plan import BlockCopy
from quire.runtime.dtypes import torch_dtype
from quire.runtime.pages import Activity, Filling, zeros


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
        # A group's layers lie in one tensor per name, so that a block is copied or cleared in all of them
        # at once. Zeros, for the null block must be.
        self._stacks: list[list[tuple[int, torch.Tensor]]] = []  # per group: block axis, [layers, ...]
        self._used = [bytearray(num_blocks) for _ in backends]
        self.layers: list[dict[str, torch.Tensor]] = [{} for _ in group_of_layer]
        for group, backend in enumerate(backends):
            members = [layer for layer, of in enumerate(group_of_layer) if of == group]
            stacks = []
            for name, tensor in backend.kv_layout(num_blocks).tensors.items():
                shape = (len(members), *tensor.shape)
                dtype = torch_dtype(tensor.dtype)
                stack = (
                    zeros(shape, dtype) if device == "cpu" else torch.zeros(shape, dtype=dtype, device=device)
                )
                stacks.append((tensor.block_axis + 1, stack))
                for place, layer in enumerate(members):
                    self.layers[layer][name] = stack[place]
            self._stacks.append(stacks)

    @staticmethod
    def bytes_per_block(backends: Sequence[AttentionBackend], group_of_layer: Sequence[int]) -> int:
        """Bytes that one more block in every group costs, over all layers."""
        per_group = [layout_bytes(b.kv_layout(3)) - layout_bytes(b.kv_layout(2)) for b in backends]
        return sum(per_group[group] for group in group_of_layer)

    def fill_in(self, activity: Activity) -> Filling:
        """Have the host's pages made while nothing is computed, lest steps pay. Ends with the cache."""
        filling = Filling([stack for stacks in self._stacks for _, stack in stacks], activity)
        weakref.finalize(self, filling.end)  # at the interpreter's end, too
        return filling

    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(stack.nbytes for stacks in self._stacks for _, stack in stacks)

    def copy(self, copies: Iterable[BlockCopy]) -> None:
        """Copy whole blocks, in all layers of their group."""
        for copy in copies:
            for axis, stack in self._stacks[copy.group]:
                stack.select(axis, copy.dst).copy_(stack.select(axis, copy.src))

    def clear(self, group: int, blocks: Iterable[int]) -> None:
        """See to it that whole blocks, about to be given out, are zero in all layers of the group."""
        used = self._used[group]
        for block in blocks:
            if not used[block]:  # still as it was allocated: zero, and maybe not even there
                used[block] = True
                continue
            # Block by block: measured at less than the time of index_fill_, whatever their number.
            for axis, stack in self._stacks[group]:
                stack.select(axis, block).zero_()
