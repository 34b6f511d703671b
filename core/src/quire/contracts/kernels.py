"""The kernels contract: the engine's compute operations for one kind of device.

The contract's body is `quire.ops.Kernels`: the operations in plain PyTorch, which is
also the reference. A plugin subclasses it and overrides what it does faster; an operation
it does not override is slow rather than absent. Each override must equal the reference
within the tolerances of `quire.testing.kernels`. A kernels plugin knows no file format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from quire.contracts.base import DeviceSpec, Need

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsSpec(DeviceSpec):
    """Description of a kernels plugin; `target` is a `quire.ops.Kernels` subclass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsNeed(Need):
    """What the engine asks of a kernels plugin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelsInit:
    """What a kernels object is constructed with, once per engine.

    Attributes:
        need: the need it did not reject.
        device: torch device string.
        options: its validated options model, or None.
    """

    need: KernelsNeed
    device: str
    options: BaseModel | None = None
