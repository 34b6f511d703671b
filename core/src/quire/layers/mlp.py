"""The gated feed-forward block (Shazeer 2020, https://arxiv.org/abs/2002.05202)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from quire.contracts import GatedMLPParts
from quire.errors import UnsupportedModelError

if TYPE_CHECKING:
    from quire.layers.build import Build
    from quire.ops import Kernels


def _silu(kernels: Kernels, x: torch.Tensor) -> torch.Tensor:
    return kernels.silu_and_mul(x)


def _gelu(kernels: Kernels, x: torch.Tensor) -> torch.Tensor:
    return kernels.gelu_and_mul(x)


def _gelu_tanh(kernels: Kernels, x: torch.Tensor) -> torch.Tensor:
    return kernels.gelu_and_mul(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Kernels, torch.Tensor], torch.Tensor]] = {
    "gelu": _gelu,
    "gelu_pytorch_tanh": _gelu_tanh,
    "silu": _silu,
}
"""`hidden_act` of config.json -> the kernels' operation that joins gate and up."""


class GatedMLP(nn.Module):
    """`down(act(gate(x)) * up(x))`, gate and up in one projection."""

    def __init__(
        self,
        build: Build,
        name: str,
        hidden_size: int,
        intermediate_size: int,
        *,
        activation: str = "silu",
        bias: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UnsupportedModelError(
                f"Unknown hidden_act {activation!r}. Choose one of: {', '.join(sorted(ACTIVATIONS))}."
            )
        self.gate_up_proj = build.linear(
            f"{name}.gate_up_proj",
            hidden_size,
            {"gate_proj": intermediate_size, "up_proj": intermediate_size},
            bias=bias,
            style="column",
        )
        self.down_proj = build.linear(
            f"{name}.down_proj", intermediate_size, hidden_size, bias=bias, style="row"
        )
        self._kernels = build.kernels
        self.activation = activation
        self._join = ACTIVATIONS[activation]

    def parts(self) -> GatedMLPParts | None:
        """What kernels need to fuse it; None if a projection is not to be described."""
        gate_up, down = self.gate_up_proj.parts(), self.down_proj.parts()
        if gate_up is None or down is None:
            return None
        return GatedMLPParts(gate_up=gate_up, activation=self.activation, down=down)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[T, H] -> [T, H]`."""
        out: torch.Tensor = self.down_proj(self._join(self._kernels, self.gate_up_proj(x)))
        return out
