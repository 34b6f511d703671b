"""The store of responses: what it keeps, what makes room, and that it stays within its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire import CompletionOutput
from quire_server.errors import ApiError
from quire_server.responses.output import Output
from quire_server.responses.record import Record
from quire_server.responses.request import CreateResponse
from quire_server.responses.store import Store
from quire_server.service import AnswerParser


def make_record(text: str = "x", *, ended: bool = True) -> Record:
    record = Record(
        body=CreateResponse(input=text),
        model="fake",
        temperature=1.0,
        top_p=1.0,
        messages=[{"role": "user", "content": text}],
        store=True,
        output=Output(AnswerParser(None, None)),
    )
    if ended:
        record.end("completed")
    return record


def test_the_least_recently_used_makes_room() -> None:
    store = Store(max_responses=2)
    first, second, third = make_record(), make_record(), make_record()
    store.put(first)
    store.put(second)
    assert store.get(first.id) is not None
    store.put(third)
    assert store.get(second.id) is None
    assert store.get(first.id) is not None
    assert store.get(third.id) is not None


def test_what_runs_does_not_make_room() -> None:
    store = Store(max_responses=1)
    running = make_record(ended=False)
    store.put(running)
    with pytest.raises(ApiError, match="no room") as caught:
        store.put(make_record())
    assert caught.value.status == 429
    running.end("completed")
    store.put(make_record())
    assert store.get(running.id) is None


def test_too_large_for_the_store() -> None:
    store = Store(max_bytes=10_000)
    kept = make_record()
    store.put(kept)
    with pytest.raises(ApiError, match="too large"):
        store.put(make_record("x" * 10_000))
    assert store.get(kept.id) is not None


def test_growth_is_counted() -> None:
    store = Store(max_bytes=10_000)
    old, running = make_record(), make_record(ended=False)
    store.put(old)
    store.put(running)
    running.output.take(CompletionOutput(index=0, text="x" * 8_000, token_ids=[]), [])
    store.grown(running)
    assert store.get(old.id) is None
    assert store.get(running.id) is not None
    store.remove(running.id)
    store.grown(running)  # as when a response is deleted while it runs
    assert (len(store), store.num_bytes) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3000), st.booleans()), max_size=40))
def test_bounds_hold(steps: list[tuple[int, int, bool]]) -> None:
    store = Store(max_responses=4, max_bytes=12_000)
    records: list[Record] = []
    for action, size, ended in steps:
        if action == 0 and records:
            store.remove(records[size % len(records)].id)
        elif action == 1 and records:
            store.get(records[size % len(records)].id)
        else:
            records.append(make_record("x" * size, ended=ended))
            try:
                store.put(records[-1])
            except ApiError:
                assert not records[-1].ended or any(
                    store.get(one.id) is not None and not one.ended for one in records
                )
        there = [kept for one in records if (kept := store.get(one.id)) is not None]
        assert len(there) == len(store) <= 4
        assert sum(kept.size for kept in there) == store.num_bytes <= 12_000
