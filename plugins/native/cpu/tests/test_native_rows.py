"""Norms and gates on every instruction set there is here: against fp64, in odd widths, row by row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_native_cpu import available, load
from quire_native_cpu.dtypes import DTYPES
from quire_native_cpu.layer import ACTIVATIONS

SETS = available()
EPS = 1e-6
ULP = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}

pytestmark = pytest.mark.parametrize("isa", SETS)


def norm(
    isa: str, x: torch.Tensor, weight: torch.Tensor, residual: torch.Tensor | None = None, threads: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """The norm, and what was normalised; memory beyond the results' ends has to stay as it is."""
    rows, n = x.shape
    out, total = (torch.full((rows + 1, n), 7.0, dtype=x.dtype) for _ in range(2))
    load(isa).calls.quire_rms_norm(
        x.data_ptr(),
        x.stride(0),
        None if residual is None else residual.data_ptr(),
        0 if residual is None else residual.stride(0),
        weight.data_ptr(),
        EPS,
        rows,
        n,
        DTYPES[x.dtype],
        out.data_ptr(),
        total.data_ptr(),
        threads,
    )
    assert (out[rows] == 7).all()
    assert (total[rows] == 7).all()
    return out[:rows], x if residual is None else total[:rows]


def gate(isa: str, x: torch.Tensor, activation: str, threads: int = 1) -> torch.Tensor:
    rows, n = x.shape[0], x.shape[1] // 2
    out = torch.full((rows + 1, n), 7.0, dtype=x.dtype)
    load(isa).calls.quire_gate(
        x.data_ptr(),
        x.stride(0),
        ACTIVATIONS[activation],
        rows,
        n,
        DTYPES[x.dtype],
        out.data_ptr(),
        threads,
    )
    assert (out[rows] == 7).all()
    return out[:rows]


def numbers(rows: int, width: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 6),
    n=st.integers(1, 70),
    dtype=st.sampled_from(list(DTYPES)),
    added=st.booleans(),
    size=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_norms_equal_fp64(isa: str, rows: int, n: int, dtype: torch.dtype, added: bool, size: float) -> None:
    x, weight = numbers(rows, n, dtype, n) * size, numbers(1, n, dtype, 1)[0]
    residual = numbers(rows, n, dtype, 2) if added else None
    out, total = norm(isa, x, weight, residual)
    if residual is not None:
        torch.testing.assert_close(total, x + residual, rtol=0, atol=0)
    wide = total.double()
    inverse = (wide.square().mean(-1, keepdim=True) + EPS).rsqrt()
    expected = wide * inverse * weight.double()
    # Two roundings to the dtype, and sums in fp32.
    torch.testing.assert_close(out.double(), expected, rtol=2 * ULP[dtype] + 1e-6, atol=1e-30)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 6),
    n=st.integers(1, 70),
    dtype=st.sampled_from(list(DTYPES)),
    activation=st.sampled_from(list(ACTIVATIONS)),
)
def test_a_gate_is_rounded_twice_as_two_operations_are(
    isa: str, rows: int, n: int, dtype: torch.dtype, activation: str
) -> None:
    x = numbers(rows, 2 * n, dtype, n)
    alone = gate(isa, torch.cat([x[:, :n], torch.ones_like(x[:, n:])], -1), activation)
    expected = (alone.float() * x[:, n:].float()).to(dtype)
    # Processors that narrow in one instruction flush denormals.
    torch.testing.assert_close(gate(isa, x, activation), expected, rtol=0, atol=2e-38)


@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_rows_stay_alone(isa: str, dtype: torch.dtype, bad: float) -> None:
    clean, weight = numbers(5, 2 * 37, dtype, 0), torch.ones(2 * 37, dtype=dtype)
    dirty = clean.clone()
    dirty[2, 40] = bad
    others = [0, 1, 3, 4]
    out = norm(isa, dirty, weight)[0]
    assert out[2].isnan().any()
    assert torch.equal(out[others], norm(isa, clean, weight)[0][others])
    gated = gate(isa, dirty, "silu")
    assert not gated[2, 3].isfinite()
    assert torch.equal(gated[others], gate(isa, clean, "silu")[others])


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_many_rows_are_shared_out_without_changing_a_bit(isa: str, dtype: torch.dtype) -> None:
    x, weight = numbers(90, 2 * 300, dtype, 0), torch.ones(2 * 300, dtype=dtype)
    assert torch.equal(norm(isa, x, weight, x, threads=3)[0], norm(isa, x, weight, x)[0])
    assert torch.equal(gate(isa, x, "gelu", threads=3), gate(isa, x, "gelu"))
    one = norm(isa, x[41:42], weight)[0]
    assert torch.equal(norm(isa, x, weight)[0][41:42], one)


def test_rows_may_lie_apart(isa: str) -> None:
    wide = numbers(6, 90, torch.float32, 0)
    part, weight = wide[:, 7:57], torch.ones(50)
    assert torch.equal(norm(isa, part, weight, part)[0], norm(isa, part.clone(), weight, part.clone())[0])
    assert torch.equal(gate(isa, part, "silu"), gate(isa, part.clone(), "silu"))
