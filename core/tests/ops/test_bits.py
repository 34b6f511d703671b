"""Bit streams against numpy's own bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import Span
from quire.ops.bits import covering_words, unpack_fields

BITS = st.sampled_from([2, 3, 4, 8])


def pack(fields: np.ndarray, bits: int) -> torch.Tensor:
    """Fields along axis 0 into int32 words, the last one padded with zeros."""
    count, columns = fields.shape
    words = -(-count * bits // 32)
    stream = np.zeros((words * 32, columns), dtype=np.uint8)
    for bit in range(bits):
        stream[bit : count * bits : bits] = fields >> bit & 1
    packed = np.packbits(stream.reshape(words, 32, columns), axis=1, bitorder="little")  # [W, 4, columns]
    packed = np.ascontiguousarray(np.moveaxis(packed, 1, -1))
    return torch.from_numpy(packed.view("<i4").reshape(words, columns).copy())


@settings(deadline=None)  # the first call warms torch up
@given(bits=BITS, count=st.integers(0, 70), columns=st.integers(1, 3), data=st.data())
def test_any_span_of_fields_is_read_back(bits: int, count: int, columns: int, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 2**32 - 1))
    fields = np.random.default_rng(seed).integers(2**bits, size=(count, columns), dtype=np.uint8)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    span, skip = covering_words(Span(start, stop, count), bits)
    words = pack(fields, bits)
    assert span.full == len(words)
    for dim in (0, 1):
        part = words[span.start : span.stop]
        found = unpack_fields(part if dim == 0 else part.t(), bits, stop - start, dim=dim, skip_bits=skip)
        assert found.dtype == torch.uint8
        expected = torch.from_numpy(fields[start:stop])
        torch.testing.assert_close(found, expected if dim == 0 else expected.t(), rtol=0, atol=0)


def test_the_words_are_left_as_they_were() -> None:
    words = torch.tensor([[-1], [0x12345678], [-2]], dtype=torch.int32)
    before = words.clone()
    unpack_fields(words, 3, 32)
    assert torch.equal(words, before)


def test_fields_beyond_the_words_are_refused() -> None:
    with pytest.raises(ValueError, match="1 words hold no 11 fields of 3 bits after 0 bits"):
        unpack_fields(torch.zeros(1, dtype=torch.int32), 3, 11)
