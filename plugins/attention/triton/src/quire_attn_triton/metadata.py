"""`StepMetadata`: one step of one KV group, its work laid out on the device.

Knows lengths and bounds; no layer and no cache. Nothing here waits for the device, and what kernels are
launched with depends on the numbers of requests and rows alone, so a step may be captured in a graph and
replayed with other lengths, in other blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch

from quire.contracts import AttentionBatch
from quire_attn_triton.kernels.plan import plan_kernel
from quire_attn_triton.tables import PLAN_SPAN, PLAN_WARPS
from quire_attn_triton.work import Work

_COPIED = ("query_start", "seq_lens", "positions", "slot_mapping")


class Partials(NamedTuple):
    """Where splits leave their results.

    Attributes:
        sums: `[places * Hkv * lanes * DIM]` fp32 at least.
        stats: `[places * Hkv * lanes * 2]` fp32 at least: weight and top.
    """

    sums: torch.Tensor
    stats: torch.Tensor


@dataclass(slots=True)
class StepMetadata:
    """A step's batch and its work, on the device.

    Attributes:
        batch: the step; of a captured one, copies that stay where they are.
        work: how it is launched.
        partials: where splits leave their results, for all layers one after the other.
        items: `[num_items, 2]` int32: request and split of each decode program, request -1 for nobody's.
        tiles: `[num_tiles, 2]` int32: request and tile of each prefill program.
        splits: `[S, 2]` int32: splits of each request, and its first place among the partial results.
        chunk: `[1]` int32: keys of a split.
    """

    batch: AttentionBatch
    work: Work
    partials: Partials
    items: torch.Tensor = field(init=False)
    tiles: torch.Tensor = field(init=False)
    splits: torch.Tensor = field(init=False)
    chunk: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Lay the work out."""
        batch, work = self.batch, self.work
        requests, rows = batch.seq_lens.shape[0], batch.positions.shape[0]
        num_items = requests + work.extra if work.has_decodes else 0
        num_tiles = rows // work.tile_rows + requests if work.has_prefills else 0
        sizes = [2 * num_items, 2 * num_tiles, 2 * requests, 1]
        space = torch.empty(sum(sizes), dtype=torch.int32, device=batch.seq_lens.device)
        items, tiles, splits, self.chunk = torch.split(space, sizes)
        self.items, self.tiles, self.splits = items.view(-1, 2), tiles.view(-1, 2), splits.view(-1, 2)
        self.lay_out()

    def lay_out(self) -> None:
        """Launch the planning, for the lengths that are in the batch's tensors by then."""
        requests, work = self.batch.seq_lens.shape[0], self.work
        if requests == 0:
            return
        plan_kernel[(requests,)](
            self.batch.seq_lens,
            self.batch.query_start,
            self.items,
            self.splits,
            self.chunk,
            self.tiles,
            requests,
            self.items.shape[0],
            self.tiles.shape[0],
            work.extra,
            work.decode.min_chunk,
            work.window,
            work.max_rows,
            TILE=work.decode.tile,
            BLOCK_Q=work.tile_rows,
            HAS_WINDOW=work.window > 0,
            SPAN=PLAN_SPAN,
            num_warps=PLAN_WARPS,
            enable_fp_fusion=True,
        )

    def settle(self, table_width: int) -> None:
        """Move the batch to tensors of this metadata's own, its block table `table_width` blocks wide.

        From here on any mixture of short and long requests has its kernel, if there is a long one now.
        """
        batch = self.batch
        table = batch.block_table.new_zeros((batch.block_table.shape[0], table_width))
        table[:, : batch.block_table.shape[1]] = batch.block_table
        own = {name: getattr(batch, name).clone() for name in _COPIED}
        self.batch = replace(batch, block_table=table, **own)
        self.work = replace(self.work, has_decodes=True)
        self.__post_init__()

    def refresh(self, batch: AttentionBatch) -> None:
        """Take over another batch of the same shape, and lay its work out.

        Raises:
            ValueError: it has other numbers of requests or rows, or longer requests than the kernels that
                were captured attend to.
        """
        own = self.batch
        shape, wanted = ((b.seq_lens.shape[0], b.positions.shape[0]) for b in (batch, own))
        if shape != wanted:
            raise ValueError(
                f"The step was captured with {wanted[0]} requests and {wanted[1]} rows, "
                f"and cannot be replayed with {shape[0]} and {shape[1]}: pad the batch."
            )
        if batch.max_query_len > own.max_query_len and not self.work.has_prefills:
            raise ValueError(
                f"The step was captured with up to {own.max_query_len} rows per request, "
                f"and cannot be replayed with {batch.max_query_len}: capture it with a longer request."
            )
        for name in _COPIED:
            getattr(own, name).copy_(getattr(batch, name))
        own.block_table[:, : batch.block_table.shape[1]] = batch.block_table
        self.lay_out()
