from __future__ import annotations

from collections.abc import Callable

import torch

from quire.layers import Build, RMSNorm


def _norm(build: Build) -> tuple[RMSNorm, torch.Tensor]:
    norm = build.norm("n", 8, 1e-5)
    (weight,) = norm.weights()
    assert weight.name == "n.weight"
    weight.target.copy_(torch.randn(8))
    norm.finish()
    return norm, norm.weight


def _reference(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def test_rows_and_heads(make_build: Callable[..., Build]) -> None:
    norm, weight = _norm(make_build())
    for shape in ((5, 8), (5, 3, 8), (0, 8)):
        x = torch.randn(shape)
        torch.testing.assert_close(norm(x), _reference(x, weight))


def test_residual_is_added_first_and_returned(make_build: Callable[..., Build]) -> None:
    norm, weight = _norm(make_build())
    x, residual = torch.randn(5, 8), torch.randn(5, 8)
    normed, total = norm(x, residual)
    torch.testing.assert_close(total, x + residual)
    torch.testing.assert_close(normed, _reference(x + residual, weight))
