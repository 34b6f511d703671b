"""Products with codes on every instruction set there is here: against fp64, and against other batches."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import QuantizedWeight
from quire_native_cpu import available, linear, load
from quire_native_cpu.arena import Arena
from quire_native_cpu.wna16 import NativeWna16, multiply, pack, spans_of

SETS = available()
DTYPES = (torch.float32, torch.bfloat16)
RELATIVE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-8}
"""Of a result's rounding, and of the sums before it."""

with_each_set = pytest.mark.parametrize("isa", SETS)


def packed(isa: str, weight: QuantizedWeight, *, exact: bool = True) -> NativeWna16:
    library = load(isa)
    made = pack(library, Arena(library), weight, exact=exact)
    assert made is not None
    return made


def random_weight(
    k: int,
    n: int,
    bits: int,
    groups: int,
    seed: int = 0,
    *,
    zeros: str = "integer",
    index: torch.Tensor | None = None,
    bias: bool = False,
) -> QuantizedWeight:
    """Codes `[k, n]`; zeros are "integer", "float", "middle" (symmetric) or "none" (centred codes)."""
    draw = torch.Generator().manual_seed(seed)
    codes = torch.randint(2**bits, (k, n), dtype=torch.uint8, generator=draw)
    middle = 1 << (bits - 1)
    points: torch.Tensor | None = torch.full((groups, n), middle)
    if zeros == "integer":
        points = torch.randint(2**bits, (groups, n), generator=draw)
    elif zeros == "float":
        points = torch.rand(groups, n, generator=draw) * 2**bits
    elif zeros == "none":
        codes, points = (codes.int() - middle).to(torch.int8), None
    return QuantizedWeight(
        codes=codes,
        bits=bits,
        scales=torch.rand(groups, n, generator=draw) + 0.5,
        zeros=points,
        group_index=index,
        bias=torch.randn(n, generator=draw) if bias else None,
    )


def dense(weight: QuantizedWeight) -> torch.Tensor:
    """`[K, N]` fp64, from the definition."""
    k = weight.codes.shape[0]
    index = weight.group_index
    if index is None:
        index = torch.arange(k) // (k // weight.scales.shape[0])
    codes = weight.codes.double()
    if weight.zeros is not None:
        codes = codes - weight.zeros.double()[index.long()]
    return codes * weight.scales.double()[index.long()]


def check(out: torch.Tensor, x: torch.Tensor, weight: QuantizedWeight, *, each_weight: float = 0.0) -> None:
    """Each element is off by no more than rounding allows, by the sizes of what was added up.

    `each_weight`: by how much of itself each weight may be off, too.
    """
    matrix = dense(weight)
    bias = torch.zeros(1).double() if weight.bias is None else weight.bias.double()
    expected = x.double() @ matrix + bias
    # What is summed is codes minus the middle and, apart from them, zeros minus the middle.
    middle = 1 << (weight.bits - 1)
    largest = 2 * middle * weight.scales.double().amax(0)
    magnitudes = x.double().abs().sum(-1, keepdim=True) * largest + bias.abs()
    slack = RELATIVE[out.dtype] * expected.abs() + 1e-6 * magnitudes + 1e-30
    slack += each_weight * (x.double().abs() @ matrix.abs())
    assert out.dtype == x.dtype
    assert out.shape == expected.shape
    assert ((out.double() - expected).abs() <= slack).all()


@with_each_set
@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(0, 70),
    group=st.sampled_from([32, 64, 128, 24, 7, 288]),
    groups=st.integers(1, 4),
    n=st.integers(1, 100),
    bits=st.sampled_from([2, 3, 4, 8]),
    zeros=st.sampled_from(["integer", "float", "middle", "none"]),
    ordered=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
    threads=st.integers(1, 3),
)
def test_products_equal_fp64(
    isa: str,
    m: int,
    group: int,
    groups: int,
    n: int,
    bits: int,
    zeros: str,
    ordered: bool,
    bias: bool,
    dtype: torch.dtype,
    seed: int,
    threads: int,
) -> None:
    draw = torch.Generator().manual_seed(seed)
    k = group * groups
    index = (torch.arange(k, dtype=torch.int32) // group)[torch.randperm(k, generator=draw)]
    weight = random_weight(k, n, bits, groups, seed, zeros=zeros, index=index if ordered else None, bias=bias)
    x = torch.randn(m, k, generator=draw).to(dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = multiply(load(isa), x, packed(isa, weight))
    finally:
        torch.set_num_threads(before)
    check(out, x, weight)


@with_each_set
@pytest.mark.parametrize("dtype", DTYPES)
def test_groups_of_any_sizes_equal_fp64(isa: str, dtype: torch.dtype) -> None:
    """As a slice of an act-order layer has them: some long, some short, some not there at all."""
    draw = torch.Generator().manual_seed(1)
    index = torch.cat([torch.full((count,), group) for group, count in ((0, 40), (2, 1), (3, 96), (5, 64))])
    index = index[torch.randperm(index.numel(), generator=draw)].to(torch.int32)
    for bits in (4, 8):
        weight = random_weight(index.numel(), 50, bits, 7, index=index)
        x = torch.randn(20, index.numel(), generator=draw).to(dtype)
        check(multiply(load(isa), x, packed(isa, weight)), x, weight)


@with_each_set
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [4, 8])
def test_many_rows_and_long_sums_equal_fp64(isa: str, dtype: torch.dtype, bits: int) -> None:
    """More rows than a chunk has, squares that overlap, long groups; and a row is as it is alone."""
    draw = torch.Generator().manual_seed(0)
    for m, k, n, groups in ((3, 4608, 40, 1), (300, 256, 272, 8), (259, 640, 72, 5), (49, 1408, 33, 1)):
        weight = random_weight(k, n, bits, groups, bias=True)
        x = torch.randn(m, k, generator=draw).to(dtype)
        native = packed(isa, weight)
        out = multiply(load(isa), x, native)
        check(out, x, weight)
        assert torch.equal(multiply(load(isa), x[-2:-1], native), out[-2:-1])


@with_each_set
@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(100, 300),
    group=st.sampled_from([32, 64, 128, 24, 800]),
    groups=st.integers(1, 3),
    n=st.integers(1, 100),
    bits=st.sampled_from([2, 4, 8]),
    zeros=st.sampled_from(["integer", "float", "middle", "none"]),
    ordered=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
    threads=st.integers(1, 3),
)
def test_many_rows_round_each_weight_once(
    isa: str,
    m: int,
    group: int,
    groups: int,
    n: int,
    bits: int,
    zeros: str,
    ordered: bool,
    bias: bool,
    seed: int,
    threads: int,
) -> None:
    """Where not all has to be exact: by half a last bit of each weight in bf16, and not at all in fp32."""
    draw = torch.Generator().manual_seed(seed)
    k = group * groups
    index = (torch.arange(k, dtype=torch.int32) // group)[torch.randperm(k, generator=draw)]
    weight = random_weight(k, n, bits, groups, seed, zeros=zeros, index=index if ordered else None, bias=bias)
    native = packed(isa, weight, exact=False)
    x = torch.randn(m, k, generator=draw)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(multiply(load(isa), x, native), x, weight)
        out = multiply(load(isa), x.bfloat16(), native)
    finally:
        torch.set_num_threads(before)
    check(out, x.bfloat16(), weight, each_weight=2.0**-9)


@with_each_set
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", ["integer", "middle"])
def test_rounded_weights_are_multiplied_as_plain_ones(isa: str, bits: int, zeros: str) -> None:
    """To the same bits; with tiles from 144 rows on, otherwise as exact ones are."""
    weight = random_weight(1280, 90, bits, 10, zeros=zeros)
    assert weight.zeros is not None
    scales, points = (table.float().repeat_interleave(128, 0) for table in (weight.scales, weight.zeros))
    library = load(isa)
    matrix = ((weight.codes.float() - points) * scales).bfloat16().t()
    plain = linear.pack(library, Arena(library), matrix, None)
    x = torch.randn(300, 1280, generator=torch.Generator().manual_seed(0)).bfloat16()
    for m in (40, 143, 144, 300):
        out = multiply(library, x[:m], packed(isa, weight, exact=False))
        if isa == "amx" and m >= 144:
            assert torch.equal(out, linear.multiply(library, x[:m], plain))
        else:
            assert torch.equal(out, multiply(library, x[:m], packed(isa, weight)))


@with_each_set
@settings(max_examples=25, deadline=None)
@given(
    group=st.sampled_from([32, 64, 128, 24]),
    n=st.sampled_from([1, 16, 33, 64, 90]),
    bits=st.sampled_from([4, 8]),
    zeros=st.sampled_from(["integer", "middle"]),
    dtype=st.sampled_from(DTYPES),
    parts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
)
def test_a_row_is_the_same_in_any_batch(
    isa: str, group: int, n: int, bits: int, zeros: str, dtype: torch.dtype, parts: list[int]
) -> None:
    native = packed(isa, random_weight(3 * group, n, bits, 3, zeros=zeros, bias=True))
    x = torch.randn(sum(parts), 3 * group, generator=torch.Generator().manual_seed(sum(parts))).to(dtype)
    whole = multiply(load(isa), x, native)
    pieces = torch.cat([multiply(load(isa), part, native) for part in torch.split(x, parts)])
    assert torch.equal(whole, pieces)


@with_each_set
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_change_no_bit(isa: str, dtype: torch.dtype) -> None:
    native = packed(isa, random_weight(256, 200, 4, 2))
    x = torch.randn(45, 256, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(multiply(load(isa), x, native))
    torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@with_each_set
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("zeros", ["integer", "middle"])
def test_bad_rows_stay_alone(isa: str, dtype: torch.dtype, bad: float, zeros: str) -> None:
    native = packed(isa, random_weight(96, 50, 4, 4, zeros=zeros))
    for m in (2, 20, 40):
        clean = torch.randn(m, 96, generator=torch.Generator().manual_seed(0)).to(dtype)
        dirty = clean.clone()
        dirty[m // 2, 95] = bad
        out, expected = multiply(load(isa), dirty, native), multiply(load(isa), clean, native)
        others = [row for row in range(m) if row != m // 2]
        assert torch.equal(out[others], expected[others])
        assert not out[m // 2].isfinite().all()


@with_each_set
def test_a_bad_scale_spoils_its_column_alone(isa: str) -> None:
    weight = random_weight(64, 40, 4, 2)
    x = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    expected = multiply(load(isa), x, packed(isa, weight))
    weight.scales[1, 17] = float("nan")
    out = multiply(load(isa), x, packed(isa, weight))
    assert out[:, 17].isnan().all()
    others = [column for column in range(40) if column != 17]
    assert torch.equal(out[:, others], expected[:, others])


@with_each_set
def test_views_of_codes_and_rows(isa: str) -> None:
    draw = torch.Generator().manual_seed(0)
    whole = torch.randint(16, (70, 64), dtype=torch.uint8, generator=draw)
    scales, zeros = torch.rand(2, 24, generator=draw) + 0.5, torch.randint(16, (2, 24), generator=draw)
    x = torch.full((9, 80), float("nan"), dtype=torch.bfloat16)
    x[:, 3:67] = torch.randn(9, 64, generator=draw)
    for codes in (whole[3:67, 5:29], whole[3:67, 5:29].t().contiguous().t()):
        weight = QuantizedWeight(codes=codes, bits=4, scales=scales, zeros=zeros)
        native = packed(isa, weight)
        out = multiply(load(isa), x[:, 3:67], native)
        check(out, x[:, 3:67], weight)
        assert torch.equal(multiply(load(isa), x[:, 3:67].clone().view(3, 3, 64), native).view(9, 24), out)


def test_the_weight_has_a_life_of_its_own() -> None:
    weight = random_weight(64, 24, 4, 2, bias=True)
    assert weight.zeros is not None
    assert weight.bias is not None
    native = packed("plain", weight)
    x = torch.randn(3, 64)
    expected = multiply(load("plain"), x, native)
    for tensor in (weight.codes, weight.scales, weight.zeros, weight.bias):
        tensor.zero_()
    assert torch.equal(multiply(load("plain"), x, native), expected)


def test_codes_of_four_bits_take_half_a_byte() -> None:
    for bits, share in ((2, 0.5), (3, 0.5), (4, 0.5), (8, 1.0)):
        native = packed("plain", random_weight(1024, 256, bits, 8, zeros="middle"))
        assert native.nbytes == 1024 * 256 * share + 8 * 256 * 4


@with_each_set
@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bits", [4, 8])
def test_scales_and_zeros_take_what_holds_them_exactly(isa: str, kept: torch.dtype, bits: int) -> None:
    """Small and large, negative and zero, subnormal in fp16: all as they are in fp32."""
    draw = torch.Generator().manual_seed(0)
    weight = random_weight(96, 40, bits, 3, bias=True)
    low, high = {torch.float16: (-24, 15), torch.bfloat16: (-60, 60), torch.float32: (-2, 2)}[kept]
    powers = torch.randint(low, high, (3, 40), generator=draw)
    scales = ((torch.rand(3, 40, generator=draw) - 0.5) * 2.0**powers).to(kept).float()
    scales[1, :5] = torch.tensor([0.0, 2.0**-24, -(2.0**-24), 2.0**-14, -1.0])
    points = torch.randint(2**bits, (3, 40), generator=draw)
    width = {torch.float16: 2, torch.bfloat16: 2, torch.float32: 4}[kept]
    for zeros, each in ((points, 1), (points + 0.25, 4), (points + 1000, 4)):
        some = dataclasses.replace(weight, scales=scales, zeros=zeros)
        native = packed(isa, some)
        assert native.nbytes == 96 * 48 * bits // 8 + 3 * 48 * (width + each) + 48 * 4
        for group in range(3):
            row = torch.zeros(1, 96)
            row[0, 32 * group + 7] = 1.0
            codes = some.codes[32 * group + 7].float() - zeros[group]
            assert some.bias is not None
            expected = codes.double() * scales[group].double() + some.bias.double()
            slack = 2.0**-21 * (expected.abs() + (codes * scales[group]).abs() + some.bias.abs())
            assert ((multiply(load(isa), row, native)[0].double() - expected).abs() <= slack).all()


def test_codes_that_do_not_fit_are_refused() -> None:
    library = load("plain")
    weight = random_weight(32, 16, 4, 1)
    weight.codes[31, 15] = 16
    assert pack(library, Arena(library), weight, exact=True) is None


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 100),
    ordered=st.booleans(),
)
def test_spans_hold_every_row_once_beside_its_own_group(sizes: list[int], seed: int, ordered: bool) -> None:
    index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    if ordered:
        index = index[torch.randperm(index.numel(), generator=torch.Generator().manual_seed(seed))]
    spans = spans_of(index.numel(), len(sizes), index)
    assert spans.size % 32 == 0
    assert 32 <= spans.size <= 256
    places = torch.arange(index.numel(), dtype=torch.int32) if spans.gather is None else spans.gather
    assert places.numel() == spans.groups.numel() * spans.size
    there = places >= 0
    assert sorted(places[there].tolist()) == list(range(index.numel()))
    of_places = spans.groups.repeat_interleave(spans.size)
    assert torch.equal(index[places[there].long()], of_places[there])


@pytest.mark.parametrize(
    ("rows", "groups", "size"), [(256, 2, 128), (2048, 1, 256), (576, 1, 192), (96, 3, 32)]
)
def test_groups_of_whole_blocks_stay_where_they_are(rows: int, groups: int, size: int) -> None:
    spans = spans_of(rows, groups, None)
    assert spans.gather is None
    assert spans.size == size
