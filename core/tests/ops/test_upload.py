"""Host tensors in one piece of memory, and out of it again."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.ops.upload import pack, unpack, upload

DTYPES = (torch.bool, torch.uint8, torch.bfloat16, torch.float32, torch.int64, torch.float64)


@given(
    wanted=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), min_size=0, max_size=3)), max_size=6
    )
)
def test_what_is_packed_comes_out_again(wanted: list[tuple[torch.dtype, list[int]]]) -> None:
    tensors = tuple((torch.rand(shape) * 100 - 50).to(dtype) for dtype, shape in wanted)
    found = unpack(pack(tensors, pin_memory=False), tensors)
    assert len(found) == len(tensors)
    for one, other in zip(found, tensors, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_strided_tensors_are_packed_by_value() -> None:
    tensors = (torch.arange(12.0).view(3, 4).T[1:], torch.arange(3))
    for one, other in zip(unpack(pack(tensors, pin_memory=False), tensors), tensors, strict=True):
        assert torch.equal(one, other)


def test_nothing_is_copied_on_a_cpu() -> None:
    tensors = [torch.arange(3), torch.ones(2)]
    for one, other in zip(upload(torch.device("cpu"), *tensors), tensors, strict=True):
        assert one is other
