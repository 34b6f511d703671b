"""Which product is taken, what memory is shared, and products whose inputs are shared out among programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given
from hypothesis import strategies as st

from quire.contracts import KernelsInit, KernelsNeed, QuantizedWeight
from quire.ops import Kernels, PackedQuantized, dequantize
from quire_kernels_triton import product_tables, quantized, w8a8, wna16
from quire_kernels_triton.kernels import TritonKernels
from quire_kernels_triton.splits import split
from quire_kernels_triton.words import PackedWords, pack

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INIT = KernelsInit(need=KernelsNeed(device=DEVICE, dtype="float32"), device=DEVICE)
FP8 = torch.float8_e4m3fn


@pytest.fixture(autouse=True)
def _fixed_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture
def ours() -> TritonKernels:
    return TritonKernels(INIT)


def nibbles(inputs: int, outputs: int, groups: int = 2) -> QuantizedWeight:
    return QuantizedWeight(
        codes=torch.randint(16, (inputs, outputs), dtype=torch.uint8, device=DEVICE),
        bits=4,
        scales=(torch.rand(groups, outputs, device=DEVICE) + 0.5) / 16 * inputs**-0.5,
        zeros=torch.randint(16, (groups, outputs), device=DEVICE),
        bias=torch.randn(outputs, device=DEVICE),
    )


def expected(x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
    assert weight.bias is not None
    return x.double() @ dequantize(weight).double() + weight.bias.double()


@given(st.integers(1, 300), st.integers(1, 600), st.integers(1, 600), st.integers(1, 9))
def test_splits_cover_every_tile_once(tiles: int, programs: int, wanted: int, fewest: int) -> None:
    found = split(tiles, programs, wanted, fewest)
    assert (found.count - 1) * found.tiles < tiles <= found.count * found.tiles
    assert found.count == 1 or (found.tiles >= fewest and found.count * programs <= wanted)


@pytest.mark.parametrize("rows", [1, 17])
def test_inputs_are_shared_out_and_summed(ours: TritonKernels, rows: int) -> None:
    weight = nibbles(640, 40)
    config = product_tables.config_of(product_tables.WNA16, 4, rows)
    assert split(5, 1, quantized.ELSEWHERE * config.waves, config.fewest).count > 1
    x = torch.randn(rows, 640, device=DEVICE)
    out = ours.wna16_linear(x, ours.pack_wna16(weight))
    torch.testing.assert_close(out.double(), expected(x, weight), rtol=2e-5, atol=2e-5)


def test_many_rows_meet_dequantized_panels(ours: TritonKernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "PANEL_BYTES", 4 * 160 * 100)
    weight = nibbles(160, 200)
    packed = ours.pack_wna16(weight)
    assert isinstance(packed.data, PackedWords)
    shared = packed.nbytes - packed.data.nbytes
    assert shared == 4 * 160 * 128  # of 200 columns
    for rows in (product_tables.DEQUANTIZE_ABOVE[4], product_tables.DEQUANTIZE_ABOVE[4] + 1):
        x = torch.randn(rows, 160, device=DEVICE)
        torch.testing.assert_close(
            ours.wna16_linear(x, packed).double(), expected(x, weight), rtol=2e-5, atol=2e-5
        )
    wide = torch.randn(70, 160, device=DEVICE, dtype=torch.float64)
    out = ours.wna16_linear(wide, packed)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, expected(wide, weight), rtol=2e-5, atol=2e-5)


def test_dequantizing_memory_is_the_largest_layers(ours: TritonKernels) -> None:
    layers = [nibbles(128, 64), nibbles(256, 128), nibbles(128, 128)]
    packed = [ours.pack_wna16(layer) for layer in layers]
    own = [pack(layer).nbytes for layer in layers]
    assert sum(one.nbytes for one in packed) == sum(own) + 4 * 256 * 128


def test_a_dtype_wider_than_the_engines_gets_memory_of_its_own() -> None:
    narrow = TritonKernels(KernelsInit(need=KernelsNeed(device=DEVICE, dtype="float16"), device=DEVICE))
    weight = nibbles(128, 64)
    packed = narrow.pack_wna16(weight)
    for dtype, near in ((torch.float32, 2e-5), (torch.float16, 4e-3)):
        x = torch.randn(80, 128, device=DEVICE).to(dtype)
        torch.testing.assert_close(
            narrow.wna16_linear(x, packed).double(), expected(x, weight), rtol=near, atol=near
        )


def eight_bits(activation: str, inputs: int = 640, outputs: int = 48, **changes: object) -> QuantizedWeight:
    """Codes that are numbers of e4m3, too."""
    fields = {
        "codes": torch.randint(-16, 17, (inputs, outputs), device=DEVICE).to(torch.int8),
        "bits": 8,
        "scales": (torch.rand(1, outputs, device=DEVICE) + 0.5) / 16 * inputs**-0.5,
        "activation": activation,
        "bias": torch.randn(outputs, device=DEVICE),
    }
    return QuantizedWeight(**{**fields, **changes})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("rows", [1, 17, 66])
@pytest.mark.parametrize("activation", ["int8_per_token", "fp8_per_token"])
def test_quantized_activations(ours: TritonKernels, activation: str, rows: int, dtype: torch.dtype) -> None:
    weight, reference = eight_bits(activation), Kernels(INIT)
    packed = ours.pack_w8a8(weight)
    assert isinstance(packed.data, w8a8.PackedBytes)
    assert packed.data.codes.dtype == (torch.int8 if activation == "int8_per_token" else FP8)
    x = torch.randn(rows, 640, device=DEVICE).to(dtype)
    near = 2e-5 if dtype == torch.float32 else 4e-3
    wanted = reference.w8a8_linear(x, reference.pack_w8a8(weight))
    torch.testing.assert_close(ours.w8a8_linear(x, packed), wanted, rtol=near, atol=near)


def test_eight_bits_come_in_several_forms(ours: TritonKernels) -> None:
    """Signed, with the zero point in the middle, as e4m3: the same products."""
    signed = eight_bits("int8_per_token", 64, 16)
    unsigned = (signed.codes.int() + 128).to(torch.uint8)
    middle = eight_bits(
        "int8_per_token", 64, 16, codes=unsigned, zeros=torch.full((1, 16), 128, device=DEVICE)
    )
    one, other = (ours.pack_w8a8(weight).data for weight in (signed, middle))
    assert isinstance(one, w8a8.PackedBytes)
    assert isinstance(other, w8a8.PackedBytes)
    assert torch.equal(one.codes, other.codes)
    floats = ours.pack_w8a8(eight_bits("fp8_per_token", 64, 16, codes=signed.codes.float().to(FP8))).data
    assert isinstance(floats, w8a8.PackedBytes)
    assert torch.equal(floats.codes.float(), one.codes.float())


@pytest.mark.parametrize(
    "weight",
    [
        eight_bits("fp8_per_token", 64, 16, codes=torch.full((64, 16), 17, dtype=torch.int8, device=DEVICE)),
        eight_bits("fp8_per_token", 24, 16),
        eight_bits("int8_per_token", 64, 16, zeros=torch.full((1, 16), 120, device=DEVICE)),
        eight_bits("int8_per_token", 64, 16, scales=torch.ones(2, 16, device=DEVICE)),
    ],
    ids=["no e4m3", "not by 16", "beyond int8", "groups"],
)
def test_what_no_kernel_takes_is_the_references(ours: TritonKernels, weight: QuantizedWeight) -> None:
    packed, reference = ours.pack_w8a8(weight), Kernels(INIT)
    assert isinstance(packed, PackedQuantized)
    assert packed.data is weight
    x = torch.randn(3, weight.codes.shape[0], device=DEVICE)
    assert torch.equal(ours.w8a8_linear(x, packed), reference.w8a8_linear(x, reference.pack_w8a8(weight)))


@pytest.mark.parametrize("dtype", [torch.int8, FP8])
def test_activations_are_rounded_as_pytorch_rounds(dtype: torch.dtype) -> None:
    x = torch.randn(5, 3000, device=DEVICE) * torch.logspace(-30, 30, 5, device=DEVICE).unsqueeze(1)
    x[3, ::7] *= 1e-3  # subnormal numbers of e4m3
    codes, scales = w8a8.quantize_rows(x, dtype, DEVICE == "cpu")
    largest = 127 if dtype == torch.int8 else 448
    torch.testing.assert_close(scales, x.abs().amax(1) / largest, rtol=0, atol=0)
    exact = x / scales.unsqueeze(1)
    wanted = exact.round() if dtype == torch.int8 else exact.to(FP8)
    assert torch.equal(codes.float(), wanted.float())


@pytest.mark.parametrize("activation", ["int8_per_token", "fp8_per_token"])
@pytest.mark.parametrize("flaw", [float("nan"), float("inf"), float("-inf")])
def test_bad_rows_are_seen(ours: TritonKernels, activation: str, flaw: float) -> None:
    packed = ours.pack_w8a8(eight_bits(activation, 64, 16))
    x = torch.randn(4, 64, device=DEVICE)
    x[2, 5] = flaw
    assert ours.w8a8_linear(x, packed).isnan().all(1).tolist() == [False, False, True, False]


def test_codes_that_are_floats_are_the_references(ours: TritonKernels) -> None:
    weight = eight_bits("fp8_per_token", 64, 16)
    floats = replace(weight, codes=(weight.codes.float() * 1.125).to(FP8), activation=None)
    x = torch.randn(3, 64, device=DEVICE)
    out = ours.wna16_linear(x, ours.pack_wna16(floats))
    torch.testing.assert_close(out.double(), expected(x, floats), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 8), (32, 0)])
def test_a_weight_of_nothing(ours: TritonKernels, inputs: int, outputs: int) -> None:
    weight = QuantizedWeight(
        codes=torch.zeros(inputs, outputs, dtype=torch.uint8, device=DEVICE),
        bits=4,
        scales=torch.ones(1, outputs, device=DEVICE),
    )
    out = ours.wna16_linear(torch.randn(3, inputs, device=DEVICE), ours.pack_wna16(weight))
    assert torch.equal(out, torch.zeros(3, outputs, device=DEVICE))


@triton.jit
def _raise_codes(out: Any, COUNT: tl.constexpr, POWER: tl.constexpr, DTYPE: tl.constexpr) -> None:
    code = tl.arange(0, COUNT)
    tl.store(out + code, wna16.raised(code, POWER, DTYPE))


@pytest.mark.parametrize(
    ("count", "power", "dtype", "named"),
    [(16, 128, torch.bfloat16, tl.bfloat16), (256, 1024, torch.float16, tl.float16)],
)
def test_codes_are_written_into_floats(count: int, power: int, dtype: torch.dtype, named: Any) -> None:
    """bf16 too, which the interpreter does not compute with: its products above are of converted codes."""
    out = torch.zeros(count, dtype=dtype, device=DEVICE)
    launch: Any = _raise_codes
    launch[(1,)](out, COUNT=count, POWER=power, DTYPE=named)
    assert torch.equal(out.float().cpu(), power + torch.arange(float(count)))


def test_every_float_has_a_config() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert wna16.takes(torch.empty(0, dtype=dtype))
        for rows in (1, 16, 17, 4096):
            config = product_tables.config_of(product_tables.WNA16, dtype.itemsize, rows)
            assert config.rows >= 16  # what the matrix units take at least
