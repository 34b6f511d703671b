"""What the three layouts decode to, against packers that place one field at a time."""

from __future__ import annotations


import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_quant_awq import decode, testing


@settings(deadline=None, max_examples=30)
@given(
    layout=st.sampled_from(sorted(testing.PACKERS)),
    group_size=st.sampled_from([32, 64, 128]),
    groups=st.sampled_from([2, 4, 10]),
    outputs=st.sampled_from([8, 24]),
    seed=st.integers(0, 99),
)
def test_every_layout_decodes_to_what_was_packed(
    layout: str, group_size: int, groups: int, outputs: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(16, (group_size * groups, outputs), generator=generator)
    zeros = torch.randint(16, (groups, outputs), generator=generator)
    scales = torch.rand(groups, outputs, generator=generator).half() + 0.01
    stored = testing.PACKERS[layout](codes, zeros, scales)
    made = getattr(decode, layout)(**stored)
    assert torch.equal(made.codes.long(), codes)
    assert made.codes.dtype == torch.uint8
    assert torch.equal(made.scales[:groups], scales)
    assert not made.scales[groups:].any()
    if layout == "gemv_fast":  # the product was rounded to fp16
        torch.testing.assert_close(made.zeros[:groups], zeros.float(), rtol=2e-3, atol=0)
        assert not made.zeros[groups:].any()
    else:
        assert torch.equal(made.zeros[:groups].long(), zeros)


def test_gemv_fast_keeps_the_products_of_the_file() -> None:
    codes = torch.randint(16, (64, 4))
    scales = torch.full((1, 4), 0.0123).half()
    stored = testing.pack_gemv_fast(codes, torch.full((1, 4), 7), scales)
    made = decode.gemv_fast(**stored)
    expected = codes.double() * scales.double() + stored["qzeros"][:1].double()
    torch.testing.assert_close((codes - made.zeros[:1].double()) * scales.double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("layout", sorted(testing.PACKERS))
def test_a_scale_of_zero_is_a_weight_of_zero(layout: str) -> None:
    stored = testing.PACKERS[layout](
        torch.full((128, 8), 5), torch.full((1, 8), 5), torch.zeros(1, 8)
    )
    made = getattr(decode, layout)(**stored)
    weights = made.scales[:1].float() * (made.codes.float() - made.zeros[:1].float())
    assert torch.equal(weights, torch.zeros(128, 8))
