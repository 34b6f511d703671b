"""How exact `simd_math.h` is: activations of all magnitudes, against fp64, on every instruction set of here.

They are asked for through the gate, whose other half is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from quire_native_cpu import available, load
from quire_native_cpu.layer import ACTIVATIONS

SETS = available()
Function = Callable[[torch.Tensor], torch.Tensor]


def silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def gelu(x: torch.Tensor) -> torch.Tensor:
    cumulative: torch.Tensor = torch.special.erfc(-x / math.sqrt(2)) / 2
    return x * cumulative


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


EXACT: dict[str, Function] = {"silu": silu, "gelu": gelu, "gelu_pytorch_tanh": gelu_tanh}

pytestmark = [pytest.mark.parametrize("isa", SETS), pytest.mark.parametrize("activation", list(ACTIVATIONS))]


def activated(isa: str, activation: str, x: torch.Tensor) -> torch.Tensor:
    """act(x), fp32, one row."""
    row = torch.cat([x, torch.ones_like(x)])
    out = torch.empty_like(x)
    load(isa).calls.quire_gate(
        row.data_ptr(), row.numel(), ACTIVATIONS[activation], 1, x.numel(), 0, out.data_ptr(), 1
    )
    return out


def line(low: float, high: float) -> torch.Tensor:
    return torch.linspace(low, high, 40_003, dtype=torch.float64).float()


def test_they_are_exact_where_numbers_are_ordinary(isa: str, activation: str) -> None:
    x = line(-12, 12)
    exact = EXACT[activation](x.double())
    error = (activated(isa, activation, x).double() - exact).abs()
    # Of 1 + tanh and 1 + erf little is left far below zero: there the error is absolute.
    assert (error <= 3e-7 * x.double().abs().clamp(min=1) + 1e-6 * exact.abs()).all()


def test_silu_keeps_its_relative_precision_far_below_zero(isa: str, activation: str) -> None:
    if activation != "silu":
        pytest.skip("the others are zero there")
    x = line(-80, -8)
    exact = silu(x.double())
    assert ((activated(isa, activation, x).double() - exact).abs() <= 1e-5 * exact.abs()).all()


def test_close_to_zero_they_are_half_of_x(isa: str, activation: str) -> None:
    x = torch.cat([sign * torch.logspace(-37, -2, 5_000) for sign in (1, -1)])
    exact = EXACT[activation](x.double())
    assert ((activated(isa, activation, x).double() - exact).abs() <= 1e-6 * exact.abs()).all()


def test_the_tanh_inside_has_no_step_where_its_forms_meet(isa: str, activation: str) -> None:
    x = line(0.05, 0.08)
    values = activated(isa, activation, x).double()
    assert ((values - EXACT[activation](x.double())).abs() <= 4e-7 * x.double()).all()


def test_large_numbers_are_themselves_or_zero(isa: str, activation: str) -> None:
    x = torch.logspace(2.1, 38.5, 1_000)
    assert torch.equal(activated(isa, activation, x), x)
    below = activated(isa, activation, -x)
    assert (below == 0).all()


def test_infinities_nan_and_zeros_come_out_as_pytorch_has_them(isa: str, activation: str) -> None:
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([nan, -nan, inf, 0.0, -0.0])
    out = activated(isa, activation, x)
    assert out[:2].isnan().all()
    assert out[2] == inf
    assert torch.equal(out[3:], torch.zeros(2))
    low = activated(isa, activation, torch.tensor([-inf]))
    assert low.isnan().all(), "-inf times zero"


def test_denormals_stay_small(isa: str, activation: str) -> None:
    x = torch.tensor([1e-38, -1e-38, 1e-42, -1e-42, 1e-45, -1e-45])
    out = activated(isa, activation, x)
    assert (out.abs() <= x.abs()).all()
    assert (out * x.sign() >= 0).all()
