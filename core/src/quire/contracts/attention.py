"""The attention contract: how a backend stores K and V, and attends over them.

The backend declares what it keeps; the core allocates it and owns the block ids.
`plan` runs once a step and KV group, `forward` once a layer.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from quire.contracts.base import DeviceSpec, Need

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel

    from quire.contracts.batch import AttentionBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec(DeviceSpec):
    """Description of an attention backend; `target` is an `AttentionBackend` subclass."""


class CacheKind(enum.Enum):
    """What a layer keeps per request."""

    FULL = "full"
    SLIDING_WINDOW = "sliding_window"
    RECURRENT = "recurrent"
    LATENT = "latent"


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSpec:
    """What one layer keeps; layers of an equal spec form one KV group.

    Attributes:
        kind: which sort of state it is.
        num_kv_heads: KV heads on this worker (after tensor-parallel sharding).
        head_dim: elements per head.
        dtype: name of the stored dtype, e.g. "bfloat16".
        window: sliding window in tokens, of which the query's own is one; None for full attention.
    """

    kind: CacheKind
    num_kv_heads: int
    head_dim: int
    dtype: str
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionNeed(Need):
    """What a KV group asks of a backend.

    Attributes:
        cache: the group's spec.
        num_q_heads: query heads on this worker.
        block_size: tokens per KV block.
        soft_cap: logits are `soft_cap * tanh(logits / soft_cap)`; None for none.
    """

    cache: CacheSpec
    num_q_heads: int
    block_size: int
    soft_cap: float | None = None


@dataclass(frozen=True, slots=True)
class KVTensor:
    """One tensor of a layer's KV storage.

    Attributes:
        shape: full shape, with `num_blocks` in place at `block_axis`.
        dtype: dtype's name.
        block_axis: which axis counts blocks. The core copies and clears (to zero) whole blocks along it.
    """

    shape: tuple[int, ...]
    dtype: str
    block_axis: int = 0


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Named tensors that one layer keeps, e.g. `{"k": ..., "v": ..., "k_scale": ...}`.

    Attributes:
        tensors: name -> tensor; every one has `num_blocks` on its block axis.
    """

    tensors: Mapping[str, KVTensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayer:
    """The constants of one attention layer.

    Attributes:
        index: position among the worker's attention layers.
        num_q_heads, num_kv_heads, head_dim: shape on this worker; query head h reads
            KV head `h // (num_q_heads // num_kv_heads)`.
        scale: factor on q·k before the soft cap and the softmax.
        window: a query at position p sees keys at positions > p - window; None sees all up to p.
        soft_cap: see `AttentionNeed`.
    """

    index: int
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    soft_cap: float | None = None


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding handed to a backend that applies it itself.

    Attributes:
        cos_sin: `[P, rotary_dim]` fp32, cosines in the first half, sines in the second.
        interleaved: pairs are (0,1),(2,3)... if True, (i, i + rotary_dim/2) if False (Llama, NeoX).
    """

    cos_sin: torch.Tensor
    interleaved: bool = False


class GraphSupport(enum.Enum):
    """Which steps a backend can take part in when a whole step is captured as a graph."""

    NONE = "none"
    DECODE = "decode"
    UNIFORM = "uniform"
    """Every request has the same 1 + k rows."""
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionInit:
    """What a backend is constructed with, once per KV group.

    Attributes:
        need: the need it did not reject.
        device: torch device string, e.g. "cuda:0".
        max_num_seqs, max_num_batched_tokens, max_model_len: bounds of any batch it will see.
        options: its validated options model, or None if its spec names none.
    """

    need: AttentionNeed
    device: str
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    options: BaseModel | None = None


class AttentionBackend(ABC):
    """Paged attention over one KV group.

    Must hold:
        * A row's output depends only on its own request's tokens.
        * Slots and blocks not named by the batch are not written.
        * Block id 0 is the null block: it stands in a table where tokens are out of the window of all of
          the request's rows, and past its last block. `slot_mapping` -1 means "write nothing for this row".
        * What is read from the null block or past a request's end gets no weight.
        * Empty batches (T == 0) return empty outputs.
        * If it takes part in captured steps: the K and V of all rows are written before any row attends, for
          several requests of one batch may be rows of the same sequence, over the same blocks.

    May rely on:
        * What is read from the null block or past a request's end is finite, so a weight of zero
          silences it. The null block is zero and stays so; the core clears every block before it gives it to
          a request, so nothing of an earlier owner, NaN least of all, is ever in it.
    """

    applies_rotary: ClassVar[bool] = False
    """True if `forward` rotates q and k itself from `rope`; else they arrive rotated."""

    graph_support: ClassVar[GraphSupport] = GraphSupport.NONE

    @classmethod
    def reject(cls, need: AttentionNeed) -> str | None:
        """The reason this backend cannot serve `need`, or None. Must not allocate."""
        return None

    def __init__(self, init: AttentionInit) -> None:
        self.init = init

    @abstractmethod
    def kv_layout(self, num_blocks: int) -> KVLayout:
        """The tensors one layer of the group keeps for `num_blocks` blocks, null block included."""

    @abstractmethod
    def plan(self, batch: AttentionBatch) -> Any:
        """Whatever `forward` needs to know of this step; called once a step and group."""

    @abstractmethod
    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kv: Mapping[str, torch.Tensor],
        metadata: Any,
        layer: AttentionLayer,
        rope: Rope | None = None,
    ) -> torch.Tensor:
        """Write this step's K and V into the cache, then attend causally.

        Args:
            q: `[T, num_q_heads, head_dim]`, compute dtype.
            k, v: `[T, num_kv_heads, head_dim]`, compute dtype.
            kv: this layer's tensors as declared by `kv_layout`.
            metadata: what `plan` returned for this step.
            layer: the layer's constants.
            rope: given only if `applies_rotary`.

        Returns:
            `[T, num_q_heads, head_dim]`, compute dtype.
        """

    def native(self, layer: AttentionLayer) -> object | None:
        """A handle by which kernels of the same make attend by themselves, inside a fused layer.

        Both know its type, and nobody else does. None, the default, if there is none: a fused layer may
        then still call `forward`.

        Args:
            layer: the layer it is for; asked once, when the model's weights are packed.
        """
        return None

    def begin_capture(self, metadata: Any) -> None:  # noqa: B027 - optional: graph_support says if it is used
        """Make `metadata` safe to capture in a graph (static addresses); called before capture."""

    def begin_replay(self, metadata: Any, batch: AttentionBatch) -> None:  # noqa: B027 - see begin_capture
        """Refresh captured `metadata` in place for `batch`; called before each replay.

        Must wait for nothing on the host. A `plan` that waits for nothing either may be captured with the
        step instead; this is then not called.

        Args:
            metadata: what `plan` returned for the step that was captured, after `begin_capture`.
            batch: has the captured step's numbers of requests and rows. What a runtime adds to fill them are
                requests at the end with one row or none, `seq_lens` 0 and slot -1; their rows of the output
                are finite, and mean nothing.

        Raises:
            ValueError: the captured step cannot compute this batch.
        """
