"""Groups of rows: a worker's share of them, and rows out of order."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.contracts import Span
from quire.ops.groups import covering_groups, rows_by_group


@given(full=st.integers(1, 60), size=st.integers(1, 70), data=st.data())
def test_every_input_finds_its_group(full: int, size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, full - 1))
    stop = data.draw(st.integers(start + 1, full))
    groups, index = covering_groups(Span(start, stop, full), size)
    assert groups.full == len({row // size for row in range(full)})
    if index is None:  # as the contract says: equal parts
        assert (stop - start) % groups.size == 0
        index = torch.arange(stop - start) // ((stop - start) // groups.size)
    assert (index + groups.start).tolist() == [row // size for row in range(start, stop)]
    assert index[0] == 0
    assert index[-1] == groups.size - 1


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_the_order_makes_groups_contiguous(groups: list[int]) -> None:
    index = torch.tensor(groups, dtype=torch.int32)
    order = rows_by_group(index)
    assert (order is None) == (groups == sorted(groups))
    if order is not None:
        assert sorted(order.tolist()) == list(range(len(groups)))
        assert index[order].tolist() == sorted(groups)
