"""A stand-in for FlashInfer on a processor: its two paged wrappers in plain PyTorch.

Written from FlashInfer's documentation. Refuses what the real ones refuse or misread: wrong dtypes and
devices, page tables that are not well-formed, another batch than a captured one, running before planning.
Like the real ones under graphs, a captured wrapper computes from its fixed buffers alone.
"""

from __future__ import annotations

import torch


class _Wrapper:
    """What both have in common."""

    made: list[_Wrapper] = []  # noqa: RUF012 - the tests' log, emptied by their fixture

    def __init__(self, float_workspace_buffer: torch.Tensor, kv_layout: str, use_cuda_graph: bool) -> None:
        assert float_workspace_buffer.dtype == torch.uint8
        assert not float_workspace_buffer[::4096].any(), "must be zero at first"
        assert kv_layout == "NHD"
        self.device = float_workspace_buffer.device
        self.use_cuda_graph = use_cuda_graph
        self.planned = False
        self.made.append(self)

    def _take(
        self,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        last_page_len: torch.Tensor,
        heads: tuple[int, int, int],
        page_size: int,
        window_left: int,
        logits_soft_cap: float | None,
        q_data_type: torch.dtype,
        kv_data_type: torch.dtype | None,
        sm_scale: float | None,
    ) -> None:
        for one in (indptr, last_page_len):
            assert one.device.type == "cpu", "planned on the host: what is on the device is waited for"
        assert {x.dtype for x in (indptr, indices, last_page_len)} == {torch.int32}
        assert indices.device == self.device
        assert indptr.shape[0] == last_page_len.shape[0] + 1
        assert indptr[0] == 0
        assert (indptr.diff() > 0).all(), "each request has a page"
        assert indptr[-1] == indices.shape[0]
        assert (last_page_len >= 1).all()
        assert (last_page_len <= page_size).all()
        assert heads[0] % heads[1] == 0
        self.heads, self.page_size = heads, page_size
        self.window_left, self.soft_cap = window_left, logits_soft_cap or 0.0
        self.q_data_type, self.kv_data_type = q_data_type, kv_data_type or q_data_type
        self.sm_scale = heads[2] ** -0.5 if sm_scale is None else sm_scale
        self.planned = True

    def _attend(
        self,
        q: torch.Tensor,
        paged_kv_cache: tuple[torch.Tensor, torch.Tensor],
        out: torch.Tensor,
        scale: float,
        starts: torch.Tensor,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        last_page_len: torch.Tensor,
    ) -> None:
        assert self.planned, "plan before run"
        q_heads, kv_heads, dim = self.heads
        k_cache, v_cache = paged_kv_cache
        assert q.shape[1:] == (q_heads, dim)
        assert q.stride(-1) == 1
        assert k_cache.shape[1:] == v_cache.shape[1:] == (self.page_size, kv_heads, dim)
        assert (q.dtype, k_cache.dtype, v_cache.dtype) == (self.q_data_type, *[self.kv_data_type] * 2)
        assert (out.shape, out.dtype, out.is_contiguous()) == (q.shape, q.dtype, True)
        for request in range(len(last_page_len)):
            rows = slice(int(starts[request]), int(starts[request + 1]))
            pages = indices[indptr[request] : indptr[request + 1]].long()
            length = (len(pages) - 1) * self.page_size + int(last_page_len[request])
            k, v = (
                cache[pages].flatten(0, 1)[:length].double().repeat_interleave(q_heads // kv_heads, dim=1)
                for cache in (k_cache, v_cache)
            )
            scores = torch.einsum("rhd,lhd->hrl", q[rows].double(), k) * scale
            if self.soft_cap > 0:
                scores = self.soft_cap * torch.tanh(scores / self.soft_cap)
            # Rows are the last tokens; the window is how many tokens before its own a row sees.
            own = torch.arange(length - (rows.stop - rows.start), length)[:, None]
            keys = torch.arange(length)
            unseen = keys > own
            if self.window_left >= 0:
                unseen = unseen | (keys < own - self.window_left)
            weights = scores.masked_fill(unseen, float("-inf")).softmax(-1)
            # As in the kernels, what has no weight is not added: not even NaN.
            values = torch.where(unseen.all(0)[:, None, None], 0.0, v)
            out[rows] = torch.einsum("hrl,lhd->rhd", weights, values).to(out.dtype)


class BatchDecodeWithPagedKVCacheWrapper(_Wrapper):
    """Requests of one row each."""

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
        paged_kv_indptr_buffer: torch.Tensor | None = None,
        paged_kv_indices_buffer: torch.Tensor | None = None,
        paged_kv_last_page_len_buffer: torch.Tensor | None = None,
        backend: str = "auto",
    ) -> None:
        assert backend == "fa2", "another one could be found at a later plan"
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph)
        self.use_tensor_cores = use_tensor_cores
        if use_cuda_graph:
            assert paged_kv_indptr_buffer is not None
            assert paged_kv_indices_buffer is not None
            assert paged_kv_last_page_len_buffer is not None
            buffers = (paged_kv_indptr_buffer, paged_kv_indices_buffer, paged_kv_last_page_len_buffer)
            assert {(one.dtype, one.device) for one in buffers} == {(torch.int32, self.device)}
            assert len(buffers[0]) == len(buffers[2]) + 1
            self.buffers = buffers

    def plan(
        self,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        q_data_type: torch.dtype = torch.float16,
        kv_data_type: torch.dtype | None = None,
        sm_scale: float | None = None,
        non_blocking: bool = True,
    ) -> None:
        heads = (num_qo_heads, num_kv_heads, head_dim)
        if not self.use_tensor_cores:
            assert num_qo_heads // num_kv_heads in (1, 2, 3, 4, 8), "a ratio that the kernel knows"
        self._take(
            indptr,
            indices,
            last_page_len,
            heads,
            page_size,
            window_left,
            logits_soft_cap,
            q_data_type,
            kv_data_type,
            sm_scale,
        )
        if not self.use_cuda_graph:
            self.buffers = (indptr.to(self.device), indices, last_page_len.to(self.device))
            return
        own = self.buffers
        if len(last_page_len) != len(own[2]):
            raise ValueError(f"planned for {len(own[2])} requests, not {len(last_page_len)}")
        if len(indices) > len(own[1]):
            raise ValueError("more pages than the buffer holds")
        own[0].copy_(indptr)
        own[1][: len(indices)].copy_(indices)
        own[2].copy_(last_page_len)

    def run(
        self,
        q: torch.Tensor,
        paged_kv_cache: tuple[torch.Tensor, torch.Tensor],
        *,
        q_scale: float | None = None,
        out: torch.Tensor,
    ) -> torch.Tensor:
        requests = len(self.buffers[2])
        assert q.shape[0] == requests
        starts = torch.arange(requests + 1)
        scale = self.sm_scale * (1.0 if q_scale is None else q_scale)
        self._attend(q, paged_kv_cache, out, scale, starts, *self.buffers)
        return out


class BatchPrefillWithPagedKVCacheWrapper(_Wrapper):
    """Requests of any numbers of rows."""

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
    ) -> None:
        super().__init__(float_workspace_buffer, kv_layout, use_cuda_graph)
        assert not use_cuda_graph

    def plan(
        self,
        qo_indptr: torch.Tensor,
        paged_kv_indptr: torch.Tensor,
        paged_kv_indices: torch.Tensor,
        paged_kv_last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim_qk: int,
        page_size: int,
        causal: bool = False,
        sm_scale: float | None = None,
        window_left: int = -1,
        logits_soft_cap: float | None = None,
        q_data_type: torch.dtype = torch.float16,
        kv_data_type: torch.dtype | None = None,
        non_blocking: bool = True,
    ) -> None:
        assert causal
        assert (qo_indptr.device.type, qo_indptr.dtype) == ("cpu", torch.int32)
        assert qo_indptr[0] == 0
        assert (qo_indptr.diff() > 0).all()
        heads = (num_qo_heads, num_kv_heads, head_dim_qk)
        self._take(
            paged_kv_indptr,
            paged_kv_indices,
            paged_kv_last_page_len,
            heads,
            page_size,
            window_left,
            logits_soft_cap,
            q_data_type,
            kv_data_type,
            sm_scale,
        )
        lengths = (paged_kv_indptr.diff() - 1) * page_size + paged_kv_last_page_len
        assert (lengths >= qo_indptr.diff()).all(), "a request's rows are in the cache before it is planned"
        self.starts = qo_indptr.to(self.device)
        self.buffers = (
            paged_kv_indptr.to(self.device),
            paged_kv_indices,
            paged_kv_last_page_len.to(self.device),
        )

    def run(
        self,
        q: torch.Tensor,
        paged_kv_cache: tuple[torch.Tensor, torch.Tensor],
        *,
        q_scale: float | None = None,
        out: torch.Tensor,
    ) -> torch.Tensor:
        assert q.shape[0] == self.starts[-1]
        scale = self.sm_scale * (1.0 if q_scale is None else q_scale)
        self._attend(q, paged_kv_cache, out, scale, self.starts, *self.buffers)
        return out
