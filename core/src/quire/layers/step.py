"""What the layers need of one step, beside its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Step:
    """One step's attention state. The worker makes it, the model passes it on, `Attention` reads it.

    Attributes:
        metadata: per KV group what its backend's `plan` returned for this step.
        kv: per attention layer (by `AttentionLayer.index`) the tensors its backend declared.
    """

    metadata: Sequence[Any]
    kv: Sequence[Mapping[str, torch.Tensor]]
