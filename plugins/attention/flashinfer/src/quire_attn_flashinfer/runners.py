"""FlashInfer's wrappers: planned once a step, run once a layer.

Knows FlashInfer, which is imported when a backend is made, and page tables; no batch and no cache layout but
`[block, token, head, element]`. A wrapper holds one plan at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from quire_attn_flashinfer.pages import PageTable

_LAYOUT = "NHD"
_TENSOR_CORE_RATIO = 4
"""From so many query heads per KV head on, decode is FlashInfer's kernel for tensor cores, which packs them
into a product's rows: what FlashInfer advises for large groups. Its other kernel knows ratios 1, 2 and 3."""

_SMALLEST_WORKSPACE = 128 << 20
"""Bytes; what FlashInfer advises."""

_PREFILL_ROWS, _DECODE_ROWS = 128, 16
"""Rows times heads of the largest tile of FlashInfer's prefill kernel, and of its decode on tensor cores."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """The constants of a group.

    Attributes:
        num_q_heads, num_kv_heads, head_dim, block_size: as in `AttentionNeed`.
        window: see `AttentionLayer`.
        soft_cap: see `AttentionLayer`.
        dtype: of queries, cache and result.
    """

    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int
    window: int | None
    soft_cap: float | None
    dtype: torch.dtype

    @property
    def ratio(self) -> int:
        """Query heads per KV head."""
        return self.num_q_heads // self.num_kv_heads

    def arguments(self) -> dict[str, Any]:
        """Keywords of every plan. The scale is a layer's own, and given when it is run."""
        return {
            "window_left": -1 if self.window is None else self.window - 1,  # without the row's own token
            "logits_soft_cap": self.soft_cap,
            "q_data_type": self.dtype,
            "kv_data_type": self.dtype,
            "sm_scale": 1.0,
            "non_blocking": True,
        }


def workspace_bytes(geometry: Geometry, max_num_seqs: int, multiprocessors: int) -> int:
    """What FlashInfer may need for the results of splits.

    It splits work over two programs per multiprocessor, and under graphs reserves a tile for each request at
    least; a tile's partial result is fp32, with its weight beside.
    """
    splits = max(2 * multiprocessors // geometry.num_kv_heads, 1)
    decode_rows = _DECODE_ROWS if geometry.ratio <= _DECODE_ROWS else _PREFILL_ROWS
    rows = max(splits * _PREFILL_ROWS, max(splits, max_num_seqs) * decode_rows)
    return max(_SMALLEST_WORKSPACE, geometry.num_q_heads * rows * (geometry.head_dim + 1) * 4 + 1024)


class Runner:
    """A wrapper of FlashInfer and the plan that it holds.

    Attributes:
        plans: how many it has been given.
    """

    def __init__(self, wrapper: Any, device: torch.device) -> None:
        self._wrapper = wrapper
        self._device = device
        self._copied = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self.plans = 0

    def run(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, out: torch.Tensor) -> None:
        """Attend with the last plan.

        Args:
            q: `[T, num_q_heads, head_dim]`, elements of a head side by side.
            k, v: `[num_blocks, block_size, num_kv_heads, head_dim]`.
            scale: factor on q·k.
            out: like q, contiguous; written.
        """
        self._wrapper.run(q, (k, v), q_scale=scale, out=out)

    def _plan(self, *args: Any, **kwargs: Any) -> None:
        """Plan, once the device has the plan before.

        FlashInfer writes a plan into one piece of pinned memory, from which the device copies it when it
        comes to that. Were it written again before, the last step would be computed with this step's plan.
        The copy comes ahead of all of the last step's kernels, so this does not wait for these.
        """
        if self._copied is not None:
            self._copied.synchronize()
        self._wrapper.plan(*args, **kwargs)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(self._device))
        self.plans += 1


class PrefillRunner(Runner):
    """Requests of any numbers of rows."""

    def __init__(self, geometry: Geometry, workspace: torch.Tensor) -> None:
        import flashinfer

        self._geometry = geometry
        wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, _LAYOUT)
        super().__init__(wrapper, workspace.device)

    def plan(self, table: PageTable) -> None:
        """For these requests."""
        geometry = self._geometry
        self._plan(
            table.query_start,
            table.indptr,
            table.indices,
            table.last_page_len,
            geometry.num_q_heads,
            geometry.num_kv_heads,
            geometry.head_dim,
            geometry.block_size,
            causal=True,
            **geometry.arguments(),
        )


class DecodeRunner(Runner):
    """Requests of one row each."""

    def __init__(
        self,
        geometry: Geometry,
        workspace: torch.Tensor,
        *,
        requests: int | None = None,
        indices: torch.Tensor | None = None,
    ) -> None:
        """Make the wrapper.

        Args:
            geometry: the group's.
            workspace: bytes on the device, zero at first.
            requests: if it is captured in a graph, how many requests every one of its plans will have.
            indices: int32 on the device, then: where it keeps their page ids.
        """
        import flashinfer

        self._geometry = geometry
        # What "auto" comes to for one row, without being asked at every plan; and graphs must keep to one.
        options: dict[str, Any] = {"backend": "fa2"}
        if requests is not None:
            options |= {
                "use_cuda_graph": True,
                "paged_kv_indptr_buffer": torch.zeros(
                    requests + 1, dtype=torch.int32, device=workspace.device
                ),
                "paged_kv_indices_buffer": indices,
                "paged_kv_last_page_len_buffer": torch.zeros(
                    requests, dtype=torch.int32, device=workspace.device
                ),
            }
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, _LAYOUT, use_tensor_cores=geometry.ratio >= _TENSOR_CORE_RATIO, **options
        )
        super().__init__(wrapper, workspace.device)

    def plan(self, table: PageTable) -> None:
        """For these requests, of one row each."""
        geometry = self._geometry
        self._plan(
            table.indptr,
            table.indices,
            table.last_page_len,
            geometry.num_q_heads,
            geometry.num_kv_heads,
            geometry.head_dim,
            geometry.block_size,
            **geometry.arguments(),
        )
