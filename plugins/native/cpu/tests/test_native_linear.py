"""Packed products on every instruction set there is here: against fp64, and against other batches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_native_cpu import available, load
from quire_native_cpu.arena import Arena
from quire_native_cpu.linear import NativeLinear, as_rows, multiply, pack

SETS = available()
DTYPES = (torch.float32, torch.bfloat16)
RELATIVE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-8}
"""Of a result's rounding, and of the sums before it."""

pytestmark = pytest.mark.parametrize("isa", SETS)


def packed(isa: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> NativeLinear:
    library = load(isa)
    return pack(library, Arena(library), weight, bias)


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product = x.double() @ weight.double().t()
    return product if bias is None else product + bias.double()


def check(
    out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
) -> None:
    """Each element is off by no more than rounding allows, by the sizes of what was added up."""
    magnitudes = exact(x.abs(), weight.abs(), None if bias is None else bias.abs())
    expected = exact(x, weight, bias)
    slack = RELATIVE[dtype] * expected.abs() + 1e-6 * magnitudes + 1e-30
    assert out.dtype == dtype
    assert out.shape == expected.shape
    assert ((out.double() - expected).abs() <= slack).all()


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(0, 70),
    k=st.integers(1, 130),
    n=st.integers(1, 100),
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
    threads=st.integers(1, 3),
)
def test_products_equal_fp64(
    isa: str, m: int, k: int, n: int, dtype: torch.dtype, bias: bool, seed: int, threads: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=generator).to(dtype)
    shift = torch.randn(n, generator=generator).to(dtype) if bias else None
    x = torch.randn(m, k, generator=generator).to(dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = packed(isa, weight, shift)
        out = multiply(load(isa), x, made)
    finally:
        torch.set_num_threads(before)
    assert made.weight is not None
    check(out, x, weight, shift, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sums_and_many_rows_equal_fp64(isa: str, dtype: torch.dtype) -> None:
    """More rows than a chunk has, more inputs than a core's cache holds of them, several groups of columns by
    parts of the inputs; and a row is as it is alone.
    """
    generator = torch.Generator().manual_seed(0)
    for m, k, n in ((3, 5000, 40), (150, 4608, 24), (300, 64, 272), (270, 1400, 200)):
        weight = torch.randn(n, k, generator=generator).to(dtype)
        x = torch.randn(m, k, generator=generator).to(dtype)
        linear = packed(isa, weight)
        out = multiply(load(isa), x, linear)
        check(out, x, weight, None, dtype)
        assert torch.equal(multiply(load(isa), x[-2:-1], linear), out[-2:-1])


@settings(max_examples=25, deadline=None)
@given(
    k=st.sampled_from([1, 31, 32, 57, 96, 130]),
    n=st.sampled_from([1, 15, 16, 33, 64, 90]),
    dtype=st.sampled_from(DTYPES),
    parts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_a_row_is_the_same_in_any_batch(
    isa: str, k: int, n: int, dtype: torch.dtype, parts: list[int]
) -> None:
    generator = torch.Generator().manual_seed(sum(parts))
    linear = packed(isa, torch.randn(n, k, generator=generator).to(dtype), None)
    x = torch.randn(sum(parts), k, generator=generator).to(dtype)
    whole = multiply(load(isa), x, linear)
    pieces = torch.cat([multiply(load(isa), part, linear) for part in torch.split(x, parts)])
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(isa: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = packed(isa, torch.randn(200, 150, generator=generator).to(dtype))
    x = torch.randn(45, 150, generator=generator).to(dtype)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(multiply(load(isa), x, linear))
    torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_rows_stay_alone(isa: str, dtype: torch.dtype, bad: float) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = packed(isa, torch.randn(50, 57, generator=generator).to(dtype))
    for m in (2, 20, 40):
        clean = torch.randn(m, 57, generator=generator).to(dtype)
        dirty = clean.clone()
        dirty[m // 2, 56] = bad
        out, expected = multiply(load(isa), dirty, linear), multiply(load(isa), clean, linear)
        others = [row for row in range(m) if row != m // 2]
        assert not out[m // 2].isfinite().any()
        assert torch.equal(out[others], expected[others])


def test_what_lies_beside_the_rows_is_not_read(isa: str) -> None:
    """Rows of bf16 are padded for pairs and tiles: by zeros, not by their neighbours."""
    x = torch.full((9, 64), float("nan"), dtype=torch.bfloat16)
    x[:, 3:40] = torch.randn(9, 37, generator=torch.Generator().manual_seed(0))
    linear = packed(isa, torch.ones(20, 37, dtype=torch.bfloat16))
    part = x[:, 3:40]
    assert torch.equal(multiply(load(isa), part, linear), multiply(load(isa), part.clone(), linear))


def test_leading_axes_and_the_weights_own_life(isa: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(24, 40, generator=generator), torch.randn(24, generator=generator)
    given_weight, given_bias = weight.t().contiguous().t(), bias.clone()
    linear = packed(isa, given_weight, given_bias)
    given_weight.fill_(float("nan"))
    given_bias.fill_(float("nan"))
    x = torch.randn(2, 3, 40, generator=generator)
    out = multiply(load(isa), x, linear)
    check(out.view(6, 24), x.view(6, 40), weight, bias, torch.float32)
    assert out.shape == (2, 3, 24)
    assert linear.nbytes >= 4 * (24 * 40 + 24)


def test_rows_are_copied_only_where_they_must(isa: str) -> None:
    x = torch.randn(4, 6, 8)
    assert as_rows(x[0]).data_ptr() == x.data_ptr()
    assert as_rows(x[0, :, 2:5]).data_ptr() == x[0, :, 2:5].data_ptr()
    turned = as_rows(x[0].t())
    assert turned.is_contiguous()
    assert torch.equal(turned, x[0].t())
