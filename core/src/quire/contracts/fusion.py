"""A decoder layer spelt out, for kernels that compute the whole of it in one call.

`Kernels.decoder_layer` is handed these parts once the layer's weights are packed, and may return one
callable that takes the place of the layer's own operations. Parts are described, never copied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from quire.contracts.attention import AttentionBackend, AttentionLayer, Rope
from quire.contracts.quantization import LinearSpec

if TYPE_CHECKING:
    import torch

    from quire.layers import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class NormParts:
    """An RMSNorm.

    Attributes:
        weight: `[size]`.
        eps: as in `Kernels.rms_norm`.
    """

    weight: torch.Tensor
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionParts:
    """A linear projection.

    Attributes:
        spec: names and features of its parts.
        packed: what `pack_linear`, `pack_wna16` or `pack_w8a8` of these very kernels made of it: one for all
            of `spec.parts`, or one per run of them, in output order; biases are inside.
        all_reduce: sums outputs over the tensor-parallel group; None if there is nothing to sum.
    """

    spec: LinearSpec
    packed: tuple[object, ...]
    all_reduce: Callable[[torch.Tensor], torch.Tensor] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionParts:
    """Self-attention: projection to q, k and v; norms of q and k; rotary; attention; projection back.

    Attributes:
        qkv: to q, k and v beside one another, `layer.num_q_heads` and twice `layer.num_kv_heads` heads.
        q_norm, k_norm: over each head's elements, before rotation; None for none.
        layer: the attention layer's constants.
        group: its KV group: the index into `Step.metadata`.
        rope: rotates q and k; None for no positions.
        backend: the group's backend.
        native: its `AttentionBackend.native(layer)`.
        out: from `[T, num_q_heads * head_dim]` to `[T, H]`.
    """

    qkv: ProjectionParts
    q_norm: NormParts | None
    k_norm: NormParts | None
    layer: AttentionLayer
    group: int
    rope: Rope | None
    backend: AttentionBackend
    native: object | None
    out: ProjectionParts


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedMLPParts:
    """`down(act(gate(x)) * up(x))`.

    Attributes:
        gate_up: gate and up beside one another.
        activation: `hidden_act` as config.json names it: "silu", "gelu", "gelu_pytorch_tanh".
        down: back to `[T, H]`.
    """

    gate_up: ProjectionParts
    activation: str
    down: ProjectionParts


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLayerParts:
    """A pre-norm decoder layer, as `quire.layers.DecoderLayer` computes it.

    Attributes:
        input_norm: before attention.
        attention: the token mixer.
        post_norm: between attention and the feed-forward block.
        mlp: the feed-forward block.
    """

    input_norm: NormParts
    attention: AttentionParts
    post_norm: NormParts
    mlp: GatedMLPParts


class FusedLayer(Protocol):
    """A whole decoder layer in one call.

    Must hold:
        * It equals the unfused layer within the tolerances of `quire.testing.kernels`, rows and cache alike:
          K and V of the step are written to `step.kv[layer.index]` where `step.metadata[group]` says
          and as the backend would write them, for its next reader may be the backend.
        * Inputs are not written to. A row depends on its own request's rows and cache only.
        * It keeps no copy of a weight: the layers account for the memory.
        * What the backend declares as `graph_support` holds for it too.
    """

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer of one step.

        Args:
            x: `[T, H]`, the last block's output, not yet added to the residual stream.
            residual: `[T, H]`, the stream before it; None in the first layer.
            positions: `[T]` int64.
            step: the step's attention metadata and KV tensors.

        Returns:
            This layer's output, not yet added, and the stream before it, both `[T, H]`.
        """


class FusedStack(Protocol):
    """Consecutive fused layers in one call: to call each costs Python's time, in cold caches.

    Must hold what `FusedLayer` does.
    """

    def __call__(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        positions: torch.Tensor,
        step: Step,
        first: int,
        stop: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Some of the layers, nearly always all, in one step.

        Args:
            x: `[T, H]`, the last block's output, not yet added (before the first layer the embedding).
            residual: `[T, H]`, the stream before it; None before the first layer.
            positions: `[T]` int64.
            step: the step's attention metadata and KV tensors.
            first, stop: the layers `first` up to `stop`, of which there is at least one.

        Returns:
            The last layer's output, not yet added, and the stream before it, both `[T, H]`.
        """


@runtime_checkable
class ProfiledLayer(Protocol):
    """What a `FusedLayer` or a `FusedStack` may offer besides: where the time of its calls went.

    `quire bench --profile` asks; a layer without it is one line of the table.
    """

    def profile(self, on: bool) -> None:
        """Begin or end keeping time. While it is off, nothing is to be paid for it."""

    def phases(self) -> Mapping[str, float]:
        """Seconds per phase since the last call of this, and back to zero.

        A phase is "norm", "rotary", "attention" or "activation", or for a projection the last component of
        its `LinearSpec.name` ("qkv_proj"); one that does several at once joins them with "+"
        ("gate_up_proj+activation"). Wall time as the calling thread sees it; together no more than its
        calls took.
        """
