"""On a GPU: products with quantized weights against fp64 at the sizes of models, and inside a captured graph.

Without one the same lines run in Triton's interpreter at the size of a toy, and nothing is captured.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed, QuantizedWeight
from quire.ops import Kernels, dequantize
from quire_kernels_triton.kernels import TritonKernels
from quire_kernels_triton.w8a8 import PackedBytes

pytestmark = pytest.mark.gpu

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
INIT = KernelsInit(need=KernelsNeed(device=DEVICE, dtype="bfloat16"), device=DEVICE)

TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
ROWS = [1, 16, 17, 130] if ON_GPU else [1, 17, 70]
SIZES = [(4096, 4096), (4096, 14336), (11008, 4096)] if ON_GPU else [(256, 40)]

each_dtype = pytest.mark.parametrize("dtype", TOLERANCES)
each_size = pytest.mark.parametrize(("inputs", "outputs"), SIZES)


@pytest.fixture
def ours() -> Kernels:
    torch.manual_seed(0)
    return TritonKernels(INIT)


def weight(
    inputs: int, outputs: int, bits: int, group: int, kind: str, activation: str | None = None
) -> QuantizedWeight:
    """Random; products with unit rows are of about unit size. `kind`: symmetric, asymmetric or act-order."""
    groups = inputs // group
    index = order = None
    if kind == "act-order":
        index = (torch.randperm(inputs, device=DEVICE) // group).int()
        order = index.argsort(stable=True)
    zeros = torch.full((groups, outputs), 1 << (bits - 1), device=DEVICE)
    if kind != "symmetric":
        zeros = torch.randint(1 << bits, (groups, outputs), device=DEVICE)
    return QuantizedWeight(
        codes=torch.randint(1 << bits, (inputs, outputs), dtype=torch.uint8, device=DEVICE),
        bits=bits,
        scales=((torch.rand(groups, outputs, device=DEVICE) + 0.5) / 2**bits * inputs**-0.5).half(),
        zeros=zeros,
        group_index=index,
        permutation=order,
        activation=activation,  # type: ignore[arg-type] # a plain string keeps tests short
        bias=torch.randn(outputs, device=DEVICE),
    )


def check(out: torch.Tensor, x: torch.Tensor, weight: QuantizedWeight) -> None:
    assert weight.bias is not None
    near = TOLERANCES[x.dtype]
    expected = x.double() @ dequantize(weight).double() + weight.bias.double()
    torch.testing.assert_close(out.double(), expected, rtol=near, atol=near)


@each_dtype
@each_size
@pytest.mark.parametrize(
    ("bits", "group", "kind"),
    [
        (4, 128, "symmetric"),
        (4, 128, "asymmetric"),
        (4, 128, "act-order"),
        (4, 32, "asymmetric"),
        (8, 64, "symmetric"),
    ],
)
def test_wna16_equals_fp64(
    ours: Kernels, dtype: torch.dtype, inputs: int, outputs: int, bits: int, group: int, kind: str
) -> None:
    made = weight(inputs, outputs, bits, group, kind)
    packed = ours.pack_wna16(made)
    for rows in ROWS:
        x = torch.randn(rows, inputs, device=DEVICE).to(dtype)
        check(ours.wna16_linear(x, packed), x, made)


@each_size
def test_products_are_the_same_bits_again(ours: Kernels, inputs: int, outputs: int) -> None:
    """No atomics: what programs share out is added in order."""
    packed = ours.pack_wna16(weight(inputs, outputs, 4, 128, "asymmetric"))
    x = torch.randn(1, inputs, device=DEVICE).half()
    first = ours.wna16_linear(x, packed)
    for _ in range(20 if ON_GPU else 1):
        assert torch.equal(ours.wna16_linear(x, packed), first)


@each_dtype
@pytest.mark.parametrize("activation", ["int8_per_token", "fp8_per_token"])
def test_w8a8_equals_the_reference(ours: Kernels, dtype: torch.dtype, activation: str) -> None:
    inputs, outputs = (4096, 4096) if ON_GPU else (256, 48)
    made = QuantizedWeight(
        codes=torch.randint(-16, 17, (inputs, outputs), device=DEVICE).to(torch.int8),
        bits=8,
        scales=(torch.rand(1, outputs, device=DEVICE) + 0.5) / 16 * inputs**-0.5,
        activation=activation,  # type: ignore[arg-type] # a plain string keeps tests short
        bias=torch.randn(outputs, device=DEVICE),
    )
    packed, reference = ours.pack_w8a8(made), Kernels(INIT)
    if ON_GPU and activation == "fp8_per_token" and torch.cuda.get_device_capability() < (8, 9):
        assert packed.data is made
    else:
        assert isinstance(packed.data, PackedBytes)
    for rows in ROWS:
        x = torch.randn(rows, inputs, device=DEVICE).to(dtype)
        expected = reference.w8a8_linear(x, reference.pack_w8a8(made))
        near = TOLERANCES[dtype]
        torch.testing.assert_close(ours.w8a8_linear(x, packed), expected, rtol=near, atol=near)


@pytest.mark.parametrize("rows", [1, 16, 130] if ON_GPU else [1, 70])
def test_products_are_captured_and_replayed(ours: Kernels, rows: int) -> None:
    inputs, outputs = SIZES[0]
    wna16 = ours.pack_wna16(weight(inputs, outputs, 4, 128, "act-order"))
    codes = torch.randint(-16, 17, (inputs, 48), device=DEVICE).to(torch.int8)
    scales = torch.full((1, 48), inputs**-0.5 / 16, device=DEVICE)
    w8a8 = [
        ours.pack_w8a8(QuantizedWeight(codes=codes, bits=8, scales=scales, activation=activation))
        for activation in ("int8_per_token", "fp8_per_token")
    ]
    x = torch.randn(rows, inputs, device=DEVICE).bfloat16()

    def work() -> list[torch.Tensor]:
        return [ours.wna16_linear(x, wna16), *(ours.w8a8_linear(x, packed) for packed in w8a8)]

    replay, outs = captured(work)
    for _ in range(2):
        x.copy_(torch.randn(rows, inputs, device=DEVICE))
        replay()
        for out, expected in zip(outs, work(), strict=True):
            assert torch.equal(out, expected)


def captured(work: Callable[[], list[torch.Tensor]]) -> tuple[Callable[[], object], list[torch.Tensor]]:
    """The work as a CUDA graph, and what it fills; where there is no GPU, as it is, into the same tensors."""
    outs = [out.clone() for out in work()]  # compiles what is captured next
    if not ON_GPU:
        return lambda: [out.copy_(found) for out, found in zip(outs, work(), strict=True)], outs
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = work()
    return graph.replay, outs
