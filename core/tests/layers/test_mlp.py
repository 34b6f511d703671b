from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from quire.errors import UnsupportedModelError
from quire.layers import Build, GatedMLP, finish, weights_of

H, INNER = 6, 8


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "m.gate_proj.weight": torch.randn(INNER, H, generator=generator),
        "m.up_proj.weight": torch.randn(INNER, H, generator=generator),
        "m.down_proj.weight": torch.randn(H, INNER, generator=generator),
    }


def _reference(x: torch.Tensor, act: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    gate, up, down = _tensors().values()
    return (act(x @ gate.T) * (x @ up.T)) @ down.T


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("silu", F.silu),
        ("gelu", F.gelu),
        ("gelu_pytorch_tanh", lambda x: F.gelu(x, approximate="tanh")),
    ],
)
def test_activations(
    make_build: Callable[..., Build],
    fill: Callable[..., None],
    name: str,
    act: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    mlp = GatedMLP(make_build(), "m", H, INNER, activation=name)
    fill(list(weights_of(mlp)), _tensors())
    finish(mlp)
    x = torch.randn(3, H)
    torch.testing.assert_close(mlp(x), _reference(x, act), rtol=1e-5, atol=1e-4)


def test_two_workers_sum(make_build: Callable[..., Build], fill: Callable[..., None]) -> None:
    x, total = torch.randn(3, H), torch.zeros(3, H)
    for rank in (0, 1):
        mlp = GatedMLP(make_build(rank=rank, size=2), "m", H, INNER)
        fill(list(weights_of(mlp)), _tensors())
        finish(mlp)
        total += mlp(x)
    torch.testing.assert_close(total, _reference(x, F.silu), rtol=1e-5, atol=1e-4)


def test_an_unknown_activation_lists_the_known_ones(make_build: Callable[..., Build]) -> None:
    with pytest.raises(UnsupportedModelError, match=r"'relu'\. Choose one of: gelu, gelu_pytorch_tanh, silu"):
        GatedMLP(make_build(), "m", H, INNER, activation="relu")
