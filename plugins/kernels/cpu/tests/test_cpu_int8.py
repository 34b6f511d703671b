"""int8 products equal the reference on every instruction set there is here, and one another bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed, QuantizedWeight
from quire.ops import Kernels
from quire.testing.batch_invariance import TOTAL, check_parts, same_bits
from quire.testing.kernels import TOLERANCES
from quire_kernels_cpu.int8 import Int8Ops
from quire_native_cpu import UnavailableError, load
from quire_native_cpu.arena import Arena

INIT = KernelsInit(need=KernelsNeed(device="cpu", dtype="bfloat16"), device="cpu")
SETS = ("amx", "avx512bf16", "avx512", "avx2", "plain")
SHAPES = [(57, 33), (64, 96), (1, 5), (40, 1), (576, 100), (130, 16), (65, 17)]
ROWS = (0, 1, 4, 5, 16, 17, 33, 47)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

Make = Callable[[str], Kernels]


class Int8Kernels(Int8Ops, Kernels):
    """The reference but for int8, on one instruction set."""

    def __init__(self, init: KernelsInit, name: str) -> None:
        super().__init__(init)
        self._library = load(name)
        self._arena = Arena(self._library)


def kernels(name: str) -> Int8Kernels:
    try:
        return Int8Kernels(INIT, name)
    except UnavailableError as error:
        pytest.skip(str(error))


def weight(inputs: int, outputs: int, *, least: int = -128, bias: bool = True) -> QuantizedWeight:
    return QuantizedWeight(
        codes=torch.randint(least, 128, (inputs, outputs), dtype=torch.int8),
        bits=8,
        scales=(torch.rand(1, outputs) + 0.5) / 128 * inputs**-0.5,
        activation="int8_per_token",
        bias=torch.randn(outputs) if bias else None,
    )


@pytest.fixture(autouse=True)
def _fixed_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("name", SETS)
def test_products_equal_the_reference(name: str, inputs: int, outputs: int) -> None:
    fast, reference = kernels(name), Kernels(INIT)
    for bias in (False, True):
        given = weight(inputs, outputs, bias=bias)
        packed, expected = fast.pack_w8a8(given), reference.pack_w8a8(given)
        assert packed.data is not given
        assert packed.nbytes >= inputs * outputs
        for rows in ROWS:
            for dtype in FLOATS:
                x = (3 * torch.randn(rows, inputs)).to(dtype)
                out = fast.w8a8_linear(x, packed)
                limit = TOLERANCES[dtype]
                torch.testing.assert_close(
                    out, reference.w8a8_linear(x, expected), atol=limit, rtol=limit, equal_nan=True
                )


def test_all_instruction_sets_agree_to_the_bit() -> None:
    """But for a bias, which is added without a rounding in between where the processor can."""
    results = []
    x, given = torch.randn(37, 300), weight(300, 70, bias=False)
    for name in SETS:
        try:
            one = Int8Kernels(INIT, name)
        except UnavailableError:
            continue
        results.append(one.w8a8_linear(x, one.pack_w8a8(given)))
    assert all(same_bits(result, results[0]) for result in results)


@pytest.mark.parametrize("name", SETS)
def test_a_row_is_the_same_in_any_batch(name: str) -> None:
    fast = kernels(name)
    packed = fast.pack_w8a8(weight(320, 90))
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(TOTAL, 320).to(dtype)
        check_parts(lambda start, stop, x=x: fast.w8a8_linear(x[start:stop], packed))  # type: ignore[misc]


@pytest.mark.parametrize("name", SETS)
def test_the_largest_sums_are_exact(name: str) -> None:
    """Codes of the greatest magnitude over many inputs: 127 * 128 * 16384 and more fit 31 bits."""
    fast, inputs = kernels(name), 16384
    given = QuantizedWeight(
        codes=torch.full((inputs, 16), -128, dtype=torch.int8),
        bits=8,
        scales=torch.ones(1, 16),
        activation="int8_per_token",
    )
    packed = fast.pack_w8a8(given)
    for rows in (1, 20):
        for sign in (1.0, -1.0):
            out = fast.w8a8_linear(torch.full((rows, inputs), 127.0 * sign), packed)
            assert torch.equal(out, torch.full((rows, 16), -128.0 * 127 * inputs * sign))


@pytest.mark.parametrize("name", SETS)
def test_codes_are_rounded_as_the_reference_rounds_them(name: str) -> None:
    """Weights of 1: the result is the code times the scale, of halves and their neighbours too."""
    fast, reference = kernels(name), Kernels(INIT)
    given = QuantizedWeight(
        codes=torch.eye(64, dtype=torch.int8), bits=8, scales=torch.ones(1, 64), activation="int8_per_token"
    )
    packed, expected = fast.pack_w8a8(given), reference.pack_w8a8(given)
    halves = (torch.arange(64) - 32) + 0.5
    for largest in (127.0, 126.99999, 1.0, 3e-30, 7e33, 0.1):
        scale = torch.tensor(largest) / 127
        near = halves * scale
        rows = torch.stack([near, torch.nextafter(near, near + 1), torch.nextafter(near, near - 1)])
        rows[:, 63] = largest
        codes = fast.w8a8_linear(rows, packed) / scale
        torch.testing.assert_close(codes, reference.w8a8_linear(rows, expected) / scale, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", SETS)
def test_bad_rows_are_nan_and_alone(name: str) -> None:
    fast = kernels(name)
    packed = fast.pack_w8a8(weight(70, 40))
    clean = torch.randn(20, 70)
    dirty = clean.clone()
    dirty[3, 69], dirty[7, 0], dirty[11, 5] = float("nan"), float("inf"), float("-inf")
    out, expected = fast.w8a8_linear(dirty, packed), fast.w8a8_linear(clean, packed)
    bad = [3, 7, 11]
    good = [row for row in range(20) if row not in bad]
    assert out[bad].isnan().all()
    assert same_bits(out[good], expected[good])


def test_strided_rows_and_leading_axes() -> None:
    fast = kernels("plain")
    packed = fast.pack_w8a8(weight(30, 20))
    x = torch.randn(2, 9, 64)
    expected = fast.w8a8_linear(x[:, ::2, 3:33].contiguous(), packed)
    assert expected.shape == (2, 5, 20)
    assert torch.equal(fast.w8a8_linear(x[:, ::2, 3:33], packed), expected)
    turned = torch.randn(30, 4).t()
    assert torch.equal(fast.w8a8_linear(turned, packed), fast.w8a8_linear(turned.contiguous(), packed))


def test_other_forms_are_the_references() -> None:
    fast = kernels("plain")
    given = weight(32, 16)
    grouped = QuantizedWeight(
        codes=given.codes, bits=8, scales=torch.rand(2, 16), activation="int8_per_token", bias=given.bias
    )
    packed = fast.pack_w8a8(grouped)
    assert packed.data is grouped
    x = torch.randn(3, 32)
    assert torch.equal(fast.w8a8_linear(x, packed), Kernels(INIT).w8a8_linear(x, packed))
