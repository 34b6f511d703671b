"""The model contract: a network built from `quire.layers`, and how its weights are named.

A model names no device, no quantization and no attention backend: it asks its `Build` for
layers, and they know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from quire.contracts.base import Need, PluginSpec

if TYPE_CHECKING:
    import torch

    from quire.contracts.quantization import Weight
    from quire.layers import Build, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec(PluginSpec):
    """Description of a model plugin; `target` is a class that fulfils `Model`.

    Attributes:
        matches: `architectures` entries of config.json that it implements.
    """

    matches: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        PluginSpec.__post_init__(self)
        object.__setattr__(self, "matches", frozenset(self.matches))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelNeed(Need):
    """What a checkpoint asks of a model plugin.

    Attributes:
        architecture: the entry of `architectures` that was matched.
        config: the checkpoint's config.json, `hf_overrides` applied.
    """

    architecture: str
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WeightMapping:
    """How checkpoint names map to the model's modules. Declared, never computed.

    Attributes:
        stacked: last component of a fused module -> last components of its parts in the
            checkpoint, e.g. `{"qkv_proj": ("q_proj", "k_proj", "v_proj")}`.
        renames: prefixes of checkpoint names and what replaces them, tried in order,
            first match wins, e.g. `(("transformer.", "model."),)`.
        ignored: suffixes of checkpoint tensors that are known and not wanted,
            e.g. `("rotary_emb.inv_freq",)`. Anything else left over is an error.
    """

    stacked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def rename(self, name: str) -> str:
        """The model's name for a checkpoint tensor."""
        for old, new in self.renames:
            if name.startswith(old):
                return new + name[len(old) :]
        return name


@runtime_checkable
class Model(Protocol):
    """What the worker calls. Implementations are `torch.nn.Module`s.

    Construction builds modules and allocates weights; loading fills them afterwards.
    The model is called with flattened rows: it never sees requests, padding or phases.
    """

    mapping: ClassVar[WeightMapping]

    def __init__(self, config: Mapping[str, Any], build: Build) -> None:
        """Build the network.

        Args:
            config: the checkpoint's config.json as a mapping, `hf_overrides` applied.
            build: makes the layers.

        Raises:
            UnsupportedModelError: the config asks for a variant that is not implemented.
        """

    @classmethod
    def reject(cls, need: ModelNeed) -> str | None:
        """The reason this variant of the architecture is not served, or None."""

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[T]` int64 -> `[T, H]`."""

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        """All layers and the final norm.

        Args:
            x: `[T, H]` from `embed` (or prompt embeddings; or an earlier pipeline stage's state).
            positions: `[T]` int64, or `[C, T]` for rotary embeddings with C components.
            step: this step's attention metadata and KV tensors; layers read it, the model passes it on.

        Returns:
            Hidden states `[T, H]`, ready for a head.
        """

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[R, H] -> [R, V]`: the language-model head. Other heads are other methods."""

    def weights(self) -> Iterable[Weight]:
        """Everything to load (`quire.layers.weights_of` walks the modules)."""

    def finish(self) -> None:
        """Called once all weights are loaded: layers repack (`quire.layers.finish`)."""


@runtime_checkable
class HeadModel(Model, Protocol):
    """A model that proposes to another one, and continues from that one's hidden states.

    Row j of it stands at position j and has two inputs: the embedding of token j + 1, and the *feature* of
    position j, which is made of the served model's states there; or, where that has not been computed yet,
    what the row before has returned. It foretells token j + 2. Of a layer's K and V a row depends on its own
    inputs alone, so there is one attention layer. In `forward` it differs from `Model`:

        * `x` is `[2, T, F]`: embeddings and features.
        * What comes back is `[T, F]`: the features by which to go on, and what `logits` takes.

    Attributes:
        depths: the states that it reads, as `quire.layers.Tap` counts them.
        feature_size: F.
    """

    depths: Sequence[int]
    feature_size: int

    def adopt(self, served: Model) -> None:
        """Take over from the served model what its own checkpoint leaves out. Called once both are loaded."""

    def fuse(self, states: Sequence[torch.Tensor]) -> torch.Tensor:
        """Features `[T, F]` of T rows.

        Args:
            states: one `[T, H]` per depth, in that order.
        """
