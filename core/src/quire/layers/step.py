"""What the layers need of one step, beside its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Tap:
    """Asks for a step's residual stream at some depths. `DecoderStack` fills it in; a model need not know.

    Attributes:
        depths: i is what enters layer i, the embedding at 0; after the last layer, before the norm, it is the
            number of layers.
        states: by depth `[T, H]`, once the layers have run.
    """

    depths: Sequence[int]
    states: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One step's attention state. The worker makes it, the model passes it on, `Attention` reads it.

    Attributes:
        metadata: per KV group what its backend's `plan` returned for this step.
        kv: per attention layer (by `AttentionLayer.index`) the tensors its backend declared.
        tap: hidden states to keep of this step, None for none.
    """

    metadata: Sequence[Any]
    kv: Sequence[Mapping[str, torch.Tensor]]
    tap: Tap | None = None
