"""Packed words stand for the weight that was packed, whatever its groups; taken apart one code at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import QuantizedWeight
from quire.testing.quantized_weights import by_definition
from quire_kernels_triton.words import SLICE, PackedWords, pack

OUTPUTS = 5


def dense(packed: PackedWords) -> torch.Tensor:
    """The weight `[K, N]` fp64 by the layout's definition."""
    bits, in_tile = packed.bits, SLICE * 32 // packed.bits
    out = torch.full((packed.inputs, packed.outputs), torch.nan, dtype=torch.float64)
    for row in range(packed.tiles * in_tile):
        column = row if packed.columns is None else int(packed.columns[row])
        if not 0 <= column < packed.inputs:
            continue
        assert out[column].isnan().all()  # once each
        tile, place = row // in_tile, row % in_tile
        word = packed.words[tile * SLICE + place % SLICE].long()
        code = (word >> (place // SLICE * bits)) & ((1 << bits) - 1)
        number = code.double() - (1 << (bits - 1))
        if packed.zeros is not None:
            number -= packed.zeros[row // packed.group].double()
        out[column] = packed.scales[row // packed.group].double() * number
    return out


def weight(
    bits: int, inputs: int, groups: int, index: torch.Tensor | None = None, zeros: str = "whole"
) -> QuantizedWeight:
    """Random codes of 5 outputs."""
    codes = torch.randint(2**bits, (inputs, OUTPUTS), dtype=torch.uint8)
    found = {
        "whole": torch.randint(2**bits, (groups, OUTPUTS), dtype=torch.int32),
        "centre": torch.full((groups, OUTPUTS), 1 << (bits - 1), dtype=torch.int32),
        "float": torch.rand(groups, OUTPUTS) * 2**bits,
        "none": None,
    }
    return QuantizedWeight(
        codes=codes,
        bits=bits,
        scales=torch.rand(groups, OUTPUTS) + 0.5,
        zeros=found[zeros],
        group_index=index,
    )


@pytest.mark.parametrize("zeros", ["whole", "centre", "float", "none"])
@pytest.mark.parametrize(
    ("inputs", "groups"),
    [(256, 8), (256, 4), (256, 2), (512, 2), (192, 4), (100, 1), (96, 4), (3, 3), (130, 2)],
)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_equal_groups(bits: int, inputs: int, groups: int, zeros: str) -> None:
    torch.manual_seed(inputs)
    given_ = weight(bits, inputs, groups, zeros=zeros)
    packed = pack(given_)
    torch.testing.assert_close(dense(packed), by_definition(given_))
    assert (packed.columns is None) == (groups == 1 or inputs // groups % SLICE == 0)
    assert (packed.zeros is None) == (bits != 3 and zeros == "centre")


def test_zero_points_that_are_integers_take_a_byte() -> None:
    for zeros, dtype in (("whole", torch.int8), ("float", torch.float32)):
        found = pack(weight(4, 64, 2, zeros=zeros)).zeros
        assert found is not None
        assert found.dtype == dtype


def test_centred_bytes_have_no_zero_points() -> None:
    codes = torch.randint(-128, 128, (80, OUTPUTS), dtype=torch.int8)
    made = QuantizedWeight(codes=codes, bits=8, scales=torch.rand(1, OUTPUTS))
    packed = pack(made)
    assert packed.zeros is None
    torch.testing.assert_close(dense(packed), by_definition(made))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.sampled_from([2, 4, 8]), st.integers(0, 99))
def test_any_order_of_groups(index: list[int], bits: int, seed: int) -> None:
    """Groups of any sizes, some of nothing, rows in any order."""
    torch.manual_seed(seed)
    made = weight(bits, len(index), 5, torch.tensor(index, dtype=torch.int32))
    torch.testing.assert_close(dense(pack(made)), by_definition(made))


def test_words_hold_nothing_but_codes() -> None:
    """4 bits a code, and scales and zero points as they are: no copy that is wider."""
    made = weight(4, 4096, 32)
    packed = pack(made)
    assert packed.nbytes == 4096 * OUTPUTS // 2 + 32 * OUTPUTS * (4 + 1)
    assert packed.columns is None
    shuffled = torch.arange(32, dtype=torch.int32).repeat(128)
    assert pack(weight(4, 4096, 32, shuffled)).nbytes == packed.nbytes + 4 * 4096
