"""What one step looks like to the worker's layers: flattened, variable-length, on the device.

T rows (tokens to compute), S requests, G KV groups. There is no prefill and no decode: a
request has one row or many. Counts that kernels need as Python numbers are kept beside the
tensors, so that nothing has to be read back from the device. Nobody writes to a batch's tensors: those of
steps alike may be the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class AttentionBatch:
    """One KV group's view of a step.

    Attributes:
        query_start: `[S + 1]` int32; request s owns rows `query_start[s]:query_start[s+1]`.
        seq_lens: `[S]` int32; tokens of request s in the cache after this step.
        positions: `[T]` int64; a request's rows are consecutive and end at `seq_lens[s] - 1`.
        block_table: `[S, B]` int32; block ids of request s in order; entries past its last
            block, or out of the window of all its rows, are 0, the null block.
        slot_mapping: `[T]` int64; `block * block_size + offset` where the row's K and V go, -1 for nowhere.
        max_query_len, max_seq_len: over the batch, on the host.
        query_lens_host, seq_lens_host: the same lengths as Python lists, S long.
    """

    query_start: torch.Tensor
    seq_lens: torch.Tensor
    positions: torch.Tensor
    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    max_query_len: int
    max_seq_len: int
    query_lens_host: list[int]
    seq_lens_host: list[int]


@dataclass(slots=True)
class Batch:
    """A whole step.

    Attributes:
        token_ids: `[T]` int64.
        positions: `[T]` int64.
        slots: `[S]` int64; the stable slot of each request, -1 for one that only fills a captured step.
        logits_rows: `[R]` int64; rows of `token_ids` whose logits are wanted for sampling.
        groups: one `AttentionBatch` per KV group.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    logits_rows: torch.Tensor
    groups: tuple[AttentionBatch, ...]
