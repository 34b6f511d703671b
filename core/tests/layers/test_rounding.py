"""Rounding rows to int8: its error, its corner cases, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import CheckpointError
from quire.layers import quantize_rows, rounding


def quantize(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.empty(rows.shape, dtype=torch.int8)
    scales = torch.empty(rows.shape[0])
    quantize_rows(rows, made, scales, "some.weight")
    return made, scales


@settings(deadline=None, max_examples=60)
@given(
    outputs=st.integers(1, 9),
    inputs=st.integers(1, 70),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    exponent=st.floats(-4, 4),
    seed=st.integers(0, 99),
)
def test_an_element_is_off_by_half_a_scale_at_most(
    outputs: int, inputs: int, dtype: torch.dtype, exponent: float, seed: int
) -> None:
    rows = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 10**exponent
    rows = rows.to(dtype)
    made, scales = quantize(rows)
    error = (made.double() * scales.double().unsqueeze(1) - rows.double()).abs()
    assert (error <= scales.double().unsqueeze(1) * (0.5 + 1e-5)).all()
    assert int(made.abs().max()) <= 127
    largest = rows.double().abs().amax(1)
    torch.testing.assert_close(
        scales.double() * 127, torch.where(largest > 0, largest, 127.0), rtol=1e-6, atol=0
    )


@settings(deadline=None, max_examples=60)
@given(
    groups=st.integers(1, 4),
    exponent=st.floats(-6, 6),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_groups_have_scales_of_their_own(groups: int, exponent: float, dtype: torch.dtype, seed: int) -> None:
    """Also narrow ones: no code is cut off by more than it is rounded."""
    rows = torch.randn(7, groups * 8, generator=torch.Generator().manual_seed(seed)) * 10**exponent
    made = torch.empty(rows.shape, dtype=torch.int8)
    scales = torch.empty(7, groups, dtype=dtype)
    quantize_rows(rows, made, scales, "some.weight")
    each = scales.double().repeat_interleave(8, 1)
    error = (made.double() * each - rows.double()).abs()
    assert (error <= each * (0.5 + 1e-5)).all()
    largest = rows.view(7, groups, 8).abs().amax(2) / 127
    assert torch.equal(scales, largest.to(dtype))


def test_a_row_of_multiples_comes_back_exactly() -> None:
    rows = torch.tensor([[-127.0, 3.0, 126.0, 0.0], [0.5, 63.5, -1.0, 0.25]])
    made, scales = quantize(rows)
    assert scales.tolist() == [1.0, 0.5]
    assert made.tolist() == [[-127, 3, 126, 0], [1, 127, -2, 0]]  # 0.25 / 0.5 is a half: to even


def test_halves_go_to_even() -> None:
    made, _ = quantize(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]]))
    assert made.tolist() == [[127, 0, 2, 2, 0, -2]]


def test_zeros_are_zeros() -> None:
    made, scales = quantize(torch.zeros(2, 5))
    assert not made.any()
    assert scales.tolist() == [1.0, 1.0]
    made, scales = quantize(torch.empty(3, 0))
    assert scales.tolist() == [1.0] * 3


def test_slices_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(23, 31)
    whole = quantize(rows)
    monkeypatch.setattr(rounding, "_SLICE_ELEMENTS", 100)
    assert all(torch.equal(a, b) for a, b in zip(quantize(rows), whole, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_no_scale_represents_is_refused_by_name(value: float) -> None:
    rows = torch.randn(4, 8)
    rows[2, 3] = value
    with pytest.raises(CheckpointError, match=r"'some\.weight' holds NaN or infinity in row 2"):
        quantize(rows)
