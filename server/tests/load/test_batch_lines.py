"""Lines of batch files: what is a request, what is not, and that results say what they settle."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire_server.batch.lines import (
    DUPLICATE,
    INVALID,
    URLS,
    BadLine,
    Done,
    Job,
    complaint,
    failure,
    read_input,
    read_result,
    success_or_refusal,
)


def line(**changes: Any) -> bytes:
    values = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    return json.dumps(values | changes).encode() + b"\n"


@pytest.mark.parametrize("url", URLS)
def test_a_request_is_read(url: str) -> None:
    (job,) = read_input([line(url=url, extra=1)])
    assert isinstance(job, Job)
    assert (job.line, job.custom_id, job.url) == (1, "a", url)
    assert json.loads(job.body) == {"prompt": "x"}


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (b"{not json\n", None, "JSON"),
        (b"[]\n", None, "object"),
        (b"\xff\xfe\n", None, ""),
        (line(custom_id=7), None, "custom_id"),
        (line(custom_id=""), "", "custom_id"),
        (line(method="GET"), "a", "method"),
        (line(url="/v1/files"), "a", "/v1/files"),
        (line(body=[1]), "a", "object"),
        (line(body={"stream": True}), "a", "stream"),
        (b'{"custom_id": "a", "method": "POST", "url": "/v1/completions"}\n', "a", "body"),
    ],
)
def test_what_is_no_request_is_named_with_its_line(text: bytes, name: str | None, reason: str) -> None:
    _, bad = read_input([line(custom_id="first"), text])
    assert isinstance(bad, BadLine)
    assert (bad.line, bad.custom_id, bad.code) == (2, name, INVALID)
    assert bad.reason.startswith("line 2: ")
    assert reason in bad.reason


def test_a_custom_id_counts_the_first_time() -> None:
    items = list(read_input([line(), line(custom_id="b"), b"\n", line()]))
    assert [type(one) for one in items] == [Job, Job, BadLine]
    assert isinstance(items[2], BadLine)
    assert (items[2].line, items[2].code) == (4, DUPLICATE)
    assert "line 1" in items[2].reason


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    name=st.text(min_size=1),
    body=json_values,
    status=st.integers(200, 599),
    indent=st.sampled_from([None, 2]),
)
def test_an_answer_becomes_one_line_that_holds_it(
    name: str, body: Any, status: int, indent: int | None
) -> None:
    job = Job(1, name, "/v1/completions", b"{}")
    text = success_or_refusal(job, "id", status, "r", json.dumps(body, indent=indent).encode())
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    result = json.loads(text)
    assert result["response"] == {"status_code": status, "request_id": "r", "body": body}
    assert (result["custom_id"], result["error"]) == (name, None)
    assert read_result(text) == Done(name, failed=status >= 300)


def test_an_answer_that_is_no_json_is_kept_as_text() -> None:
    job = Job(1, "a", "/v1/completions", b"{}")
    assert (
        json.loads(success_or_refusal(job, "id", 502, "r", b"<html>\n\xff"))["response"]["body"]
        == "<html>\n�"
    )


def test_failures_and_complaints_say_what_they_settle() -> None:
    job = Job(3, "a", "/v1/completions", b"{}")
    assert read_result(failure(job, "id", "timeout", "late")) == Done("a", failed=True)
    assert read_result(complaint(BadLine(3, "a", DUPLICATE, "twice"))) == Done(3, failed=True)


@pytest.mark.parametrize(
    "text", [b"", b"{}\n", b"[1]\n", b'{"custom_id": "a", "response": null, "error": null}\n', line()]
)
def test_other_lines_are_no_results(text: bytes) -> None:
    assert read_result(text) is None


@given(st.binary(max_size=40))
def test_any_bytes_are_a_line_or_nothing(text: bytes) -> None:
    items = list(read_input([text]))
    assert len(items) == bool(text.strip())
    assert all(read_result(complaint(one)) is not None for one in items if isinstance(one, BadLine))
