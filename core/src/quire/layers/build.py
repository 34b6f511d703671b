"""The builder a model asks for its layers.

Knows the device, the quantization, the kernels, the parallel group and which backend serves which KV
group, so that a model need not. Knows no architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import torch

from quire.contracts import (
    AttentionBackend,
    AttentionLayer,
    CacheKind,
    CacheSpec,
    LinearPart,
    LinearSpec,
    Quantization,
    Span,
    WeightMapping,
)
from quire.errors import PluginError
from quire.layers.attention import Attention
from quire.layers.embedding import Embedding, LMHead
from quire.layers.linear import Linear
from quire.layers.norm import RMSNorm
from quire.layers.parallel import ParallelGroup
from quire.layers.rotary import RopeParameters, RotaryEmbedding

if TYPE_CHECKING:
    from quire.ops import Kernels

AttentionFactory: TypeAlias = Callable[[CacheSpec, int, float | None], tuple[int, AttentionBackend]]
"""`(cache, num_q_heads, soft_cap) -> (KV group, its backend)`, supplied by the worker.

Called once per attention layer, in order; layers of an equal `CacheSpec` get the same group and backend.
"""


class RegisteredAttention(NamedTuple):
    """An attention layer as the worker needs to know it: to allocate its KV tensors."""

    layer: AttentionLayer
    group: int
    cache: CacheSpec
    backend: AttentionBackend


class Build:
    """Makes layers for one worker.

    Attributes:
        config: the checkpoint's config.json.
        kernels: the engine's compute operations.
        quantization: opened on the checkpoint; owns every linear's storage.
        mapping: the model class's weight mapping.
        parallel: this worker's tensor-parallel group.
        device: torch device string, "meta" to build without memory.
        dtype: compute dtype.
        kv_dtype: name of the dtype K and V are kept in.
        max_model_len: longest sequence, rows of rotary tables.
        attention_layers: what `attention` has registered so far, by `AttentionLayer.index`.
    """

    def __init__(
        self,
        *,
        config: Mapping[str, Any],
        kernels: Kernels,
        quantization: Quantization,
        attention: AttentionFactory,
        mapping: WeightMapping,
        max_model_len: int,
        parallel: ParallelGroup | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        kv_dtype: str | None = None,
    ) -> None:
        self.config = config
        self.kernels = kernels
        self.quantization = quantization
        self.mapping = mapping
        self.max_model_len = max_model_len
        self.parallel = parallel or ParallelGroup()
        self.device = device
        self.dtype = dtype
        self.kv_dtype = kv_dtype or str(dtype).removeprefix("torch.")
        self.attention_layers: list[RegisteredAttention] = []
        self._attention_factory = attention
        self._rotaries: dict[tuple[object, ...], RotaryEmbedding] = {}

    def linear(
        self,
        name: str,
        in_features: int | Span,
        parts: Mapping[str, int | Span] | int | Span,
        *,
        bias: bool = False,
        style: Literal["column", "row", "replicated"] = "replicated",
    ) -> Linear:
        """A projection.

        Args:
            name: module path, e.g. "model.layers.0.self_attn.qkv_proj".
            in_features: input features of the whole model; sharded here for style "row". A `Span`
                says itself what is this worker's.
            parts: output features of the whole model; for a fused projection by the last component of
                each part's name in the checkpoint, as the model's mapping declares them. Sharded
                here for style "column" unless given as a `Span` (see `kv_heads`).
            bias: whether the architecture has a bias.
            style: see `LinearSpec`.

        Raises:
            PluginError: the parts are not those of the model's mapping.
            ConfigError: the group's size does not divide the features.
        """
        prefix, _, last = name.rpartition(".")
        named = parts if isinstance(parts, Mapping) else {last: parts}
        if tuple(named) != tuple(self.mapping.stacked.get(last, (last,))):
            raise PluginError(
                f"The model builds {name} from {', '.join(named)}, "
                f"but its weight mapping declares {', '.join(self.mapping.stacked.get(last, (last,)))}."
            )
        spec = LinearSpec(
            name=name,
            parts=tuple(
                LinearPart(
                    f"{prefix}.{part}" if prefix else part,
                    self._span(out, style == "column", f"{name}'s outputs"),
                )
                for part, out in named.items()
            ),
            inp=self._span(in_features, style == "row", f"{name}'s inputs"),
            bias=bias,
            style=style,
        )
        return Linear(spec, self.quantization.linear(spec), self.parallel)

    def q_heads(self, num_heads: int, head_dim: int) -> Span:
        """This worker's share of the query heads' features."""
        heads = self.parallel.shard(num_heads, "num_attention_heads")
        return Span(heads.start * head_dim, heads.stop * head_dim, heads.full * head_dim)

    def kv_heads(self, num_kv_heads: int, head_dim: int) -> Span:
        """This worker's share of the KV heads' features; heads are replicated over a larger group."""
        return self.parallel.shard_heads(num_kv_heads, head_dim, "num_key_value_heads")

    def embedding(self, name: str, vocab_size: int, hidden_size: int) -> Embedding:
        """The token embedding, vocabulary-parallel."""
        return Embedding(
            name,
            vocab_size,
            hidden_size,
            kernels=self.kernels,
            parallel=self.parallel,
            device=self.device,
            dtype=self.dtype,
        )

    def lm_head(
        self, name: str, vocab_size: int, hidden_size: int, *, tied_to: Embedding | None = None
    ) -> LMHead:
        """The language-model head, with weights of its own or the embedding's."""
        projection = method = None
        rows = self.parallel.shard_vocab(vocab_size)
        if tied_to is None:
            projection = self.linear(name, hidden_size, rows, style="column")
        else:
            spec = LinearSpec(
                name=name, parts=(LinearPart(name, rows),), inp=Span.whole(hidden_size), style="column"
            )
            method = self.quantization.tied_head(spec)
        return LMHead(
            name,
            vocab_size,
            kernels=self.kernels,
            parallel=self.parallel,
            projection=projection,
            tied_to=tied_to,
            method=method,
        )

    def norm(self, name: str, size: int, eps: float) -> RMSNorm:
        """An RMSNorm over the last axis, of `size` elements."""
        return RMSNorm(name, size, eps, kernels=self.kernels, device=self.device, dtype=self.dtype)

    def rotary(
        self, head_dim: int, *, layer_type: str | None = None, interleaved: bool = False
    ) -> RotaryEmbedding:
        """The rotary embedding that config.json asks for; one table for all layers of equal parameters.

        Raises:
            UnsupportedModelError: the config's rope type is unknown or incomplete.
        """
        parameters = RopeParameters.read(self.config, head_dim, layer_type)
        key = (*parameters.cache_key(), interleaved)
        if key not in self._rotaries:
            self._rotaries[key] = RotaryEmbedding(parameters, self.max_model_len, self.device, interleaved)
        return self._rotaries[key]

    def attention(
        self,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        rotary: RotaryEmbedding | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
        scale: float | None = None,
    ) -> Attention:
        """One attention layer, registered with its KV group.

        Args:
            num_heads, num_kv_heads: heads of the whole model.
            head_dim: elements per head.
            rotary: applied to q and k; None for no positions.
            window, soft_cap: see `AttentionLayer`.
            scale: factor on q·k; None for `head_dim ** -0.5`.
        """
        num_q = self.q_heads(num_heads, head_dim).size // head_dim
        num_kv = self.kv_heads(num_kv_heads, head_dim).size // head_dim
        cache = CacheSpec(
            kind=CacheKind.FULL if window is None else CacheKind.SLIDING_WINDOW,
            num_kv_heads=num_kv,
            head_dim=head_dim,
            dtype=self.kv_dtype,
            window=window,
        )
        layer = AttentionLayer(
            index=len(self.attention_layers),
            num_q_heads=num_q,
            num_kv_heads=num_kv,
            head_dim=head_dim,
            scale=head_dim**-0.5 if scale is None else scale,
            window=window,
            soft_cap=soft_cap,
        )
        group, backend = self._attention_factory(cache, num_q, soft_cap)
        self.attention_layers.append(RegisteredAttention(layer, group, cache, backend))
        return Attention(layer, group, backend, kernels=self.kernels, rotary=rotary)

    def _span(self, size: int | Span, sharded: bool, what: str) -> Span:
        if isinstance(size, Span):
            return size
        return self.parallel.shard(size, what) if sharded else Span.whole(size)
