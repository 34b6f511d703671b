from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from quire.layers import Build, DecoderLayer, RMSNorm, Step


class Scale(nn.Module):
    """Stands in for attention and for the feed-forward block."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor, *_: object) -> torch.Tensor:
        return x * self.factor


def _norm(build: Build, name: str) -> RMSNorm:
    norm = build.norm(name, 8, 1e-6)
    norm.weight.copy_(torch.rand(8) + 0.5)
    return norm


def test_carried_residual_equals_the_plain_form(make_build: Callable[..., Build]) -> None:
    """Two layers with the residual beside, against x + f(norm(x)) spelt out."""
    build = make_build()
    layers = [
        DecoderLayer(
            build,
            input_norm=_norm(build, "a"),
            mixer=Scale(2.0),
            post_norm=_norm(build, "b"),
            mlp=Scale(-3.0),
        )
        for _ in range(2)
    ]
    start = torch.randn(4, 8)
    plain = start
    for layer in layers:
        plain = plain + 2.0 * layer.input_norm(plain)
        plain = plain - 3.0 * layer.post_norm(plain)

    x: torch.Tensor = start
    residual: torch.Tensor | None = None
    for layer in layers:
        x, residual = layer(x, residual, torch.arange(4), Step([], []))
    assert residual is not None
    torch.testing.assert_close(x + residual, plain)
