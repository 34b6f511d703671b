"""Batches: every line is settled once, whatever the server does and however often the run is killed."""

from __future__ import annotations

import asyncio
import email.utils
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import ConfigError, EngineError
from quire_server.batch import BatchSettings, Counts, run_batch
from quire_server.batch.output import Output
from quire_server.batch.sender import LONGEST_WAIT, retry_after

if TYPE_CHECKING:
    from server.tests.load.conftest import Served


def request(name: str, url: str = "/v1/completions", **body: Any) -> str:
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": {"n": name, **body}})


def results(target: Path) -> list[dict[str, Any]]:
    return [json.loads(one) for one in target.read_text().splitlines()]


def go(served: Served, folder: Path, lines: list[str] | None = None, **changes: Any) -> Counts:
    if lines is not None:
        (folder / "in.jsonl").write_text("\n".join(lines) + "\n")

    async def run() -> Counts:
        async with httpx.AsyncClient(base_url=served.url, timeout=0.5) as client:
            values = {"concurrency": 3, "max_retries": 2, "backoff": 0.001} | changes
            return await run_batch(folder / "in.jsonl", folder / "out.jsonl", client, BatchSettings(**values))

    return asyncio.run(run())


def test_requests_go_out_and_answers_come_back(served: Served, tmp_path: Path) -> None:
    urls = ["/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/responses"]
    counts = go(served, tmp_path, [request(f"r{i}", url) for i, url in enumerate(urls)])
    assert counts == Counts(total=4, earlier=0, failed=0, done=4)
    found = {one["custom_id"]: one for one in results(tmp_path / "out.jsonl")}
    for i, url in enumerate(urls):
        result = found[f"r{i}"]
        assert result["error"] is None
        assert result["response"]["status_code"] == 200
        assert result["response"]["request_id"] == "from-the-server"
        assert result["response"]["body"] == {"echo": {"n": f"r{i}"}, "path": url.removeprefix("/v1/")}
    assert len({one["id"] for one in found.values()}) == 4
    assert {one["x-request-id"] for one in served.headers} == {one["id"] for one in found.values()}


def test_concurrency_is_bounded_and_used(served: Served, tmp_path: Path) -> None:
    served.gap = 0.02
    go(served, tmp_path, [request(f"r{i}") for i in range(12)], concurrency=4)
    assert served.most == 4


def test_a_busy_server_is_asked_again(served: Served, tmp_path: Path) -> None:
    served.next.extend(["busy", "later"])
    assert go(served, tmp_path, [request("a")]).failed == 0
    assert len(served.bodies) == 3
    assert len({one["x-request-id"] for one in served.headers}) == 1


def test_retries_end(served: Served, tmp_path: Path) -> None:
    served.retry_after = None
    served.next.extend(["busy"] * 3)
    assert go(served, tmp_path, [request("a"), request("b")], concurrency=1) == Counts(2, 0, 1, 2)
    first, second = results(tmp_path / "out.jsonl")
    assert first["response"] == {
        "status_code": 429,
        "request_id": first["id"],
        "body": {"error": {"message": "full"}},
    }
    assert second["response"]["status_code"] == 200


@pytest.mark.parametrize(("how", "status"), [("bad", 400), ("error", 500)])
def test_refusals_are_results_and_final(served: Served, tmp_path: Path, how: str, status: int) -> None:
    served.next.append(how)
    assert go(served, tmp_path, [request("a")]).failed == 1
    (result,) = results(tmp_path / "out.jsonl")
    assert (result["response"]["status_code"], result["error"]) == (status, None)
    assert len(served.bodies) == 1


def test_a_request_without_an_answer_fails_alone(served: Served, tmp_path: Path) -> None:
    served.next.extend(["hang", "text"])
    assert go(served, tmp_path, [request("a"), request("b"), request("c")], concurrency=1).failed == 1
    slow, text, good = results(tmp_path / "out.jsonl")
    assert slow["response"] is None
    assert slow["error"]["code"] == "timeout"
    assert text["response"]["body"] == "<html>\nnot json</html>"
    assert good["response"]["body"]["echo"] == {"n": "c"}


def test_bad_lines_are_reported_and_nothing_is_lost(served: Served, tmp_path: Path) -> None:
    lines = [request("a"), "{oops", "", request("a"), request("b"), request("c", "/v1/nowhere")]
    assert go(served, tmp_path, lines) == Counts(total=5, earlier=0, failed=3, done=5)
    errors = {one["error"]["line"]: one for one in results(tmp_path / "out.jsonl") if one["error"]}
    assert set(errors) == {2, 4, 6}
    assert errors[4]["error"]["code"] == "duplicate_custom_id"
    assert [errors[number]["custom_id"] for number in (2, 4, 6)] == [None, "a", "c"]
    assert len(served.bodies) == 2
    before = (tmp_path / "out.jsonl").read_bytes()
    assert go(served, tmp_path) == Counts(total=5, earlier=5, failed=3, done=5)
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert len(served.bodies) == 2


class Killed(BaseException):
    """The process is gone."""


class Reborn:
    """A server in memory that notes how often each request came."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        name = json.loads(request.content)["n"]
        self.seen[name] += 1
        await asyncio.sleep(0)
        return httpx.Response(400 if name.endswith("7") else 200, json={"name": name})


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 12),
    kills=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 200)), max_size=4),
    concurrency=st.integers(1, 4),
    bad=st.sets(st.integers(0, 14), max_size=3),
)
def test_killed_runs_go_on_without_losing_or_repeating_a_line(
    count: int, kills: list[tuple[int, int]], concurrency: int, bad: set[int]
) -> None:
    """A kill after k lines leaves them and a part of the next one; the last run settles all."""
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "in.jsonl", Path(name) / "out.jsonl"
        lines = [request(f"r{i}") for i in range(count)]
        for at in sorted(bad):
            lines.insert(min(at, len(lines)), "{broken" if at % 2 else request("r0"))
        source.write_text("\n".join(lines))
        server = Reborn()

        async def run(after: int | None) -> Counts:
            def kill(counts: Counts) -> None:
                if after is not None and counts.done - counts.earlier >= after:
                    raise Killed

            transport = httpx.MockTransport(server)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await run_batch(source, target, client, BatchSettings(concurrency=concurrency), kill)

        for after, part in kills:
            before = target.read_bytes() if target.exists() else b""
            before = before[: before.rfind(b"\n") + 1]  # what was written in part is done again
            try:
                asyncio.run(run(after))
            except Killed:
                pass
            except BaseExceptionGroup as group:
                if group.subgroup(Killed) is None:
                    raise
            written = target.read_bytes()
            assert written.startswith(before)
            whole = written.splitlines(keepends=True)
            if len(written) > len(before):  # the last line may have reached the disk in part
                target.write_bytes(b"".join(whole[:-1]) + whole[-1][:part])
        counts = asyncio.run(run(None))
        found = results(target)
        assert counts.done == counts.total == len(found) == len(lines)
        settled = Counter(
            one["error"]["line"] if one["error"] and "line" in one["error"] else one["custom_id"]
            for one in found
        )
        assert set(settled.values()) == {1}
        assert {name for name in settled if isinstance(name, str)} == {f"r{i}" for i in range(count)}
        assert set(server.seen) == {f"r{i}" for i in range(count)}


def test_a_last_line_in_part_is_cut_off(tmp_path: Path) -> None:
    good = b'{"id": "1", "custom_id": "a", "response": {"status_code": 200}, "error": null}\n'
    target = tmp_path / "out.jsonl"
    target.write_bytes(good + good.replace(b'"a"', b'"b"')[:-9])
    with Output(target) as output:
        assert output.done == {"a": False}
    assert target.read_bytes() == good


def test_a_file_of_something_else_is_left_alone(served: Served, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("my diary\n")
    with pytest.raises(ConfigError, match="Line 1"):
        go(served, tmp_path, [request("a")])
    assert (tmp_path / "out.jsonl").read_text() == "my diary\n"


def test_another_batchs_output_is_left_alone(served: Served, tmp_path: Path) -> None:
    go(served, tmp_path, [request("a")])
    with pytest.raises(ConfigError, match="'a'"):
        go(served, tmp_path, [request("b")])


def test_one_run_at_a_time(served: Served, tmp_path: Path) -> None:
    with Output(tmp_path / "out.jsonl"), pytest.raises(ConfigError, match="Another process"):
        go(served, tmp_path, [request("a")])


@pytest.mark.parametrize("target", ["in.jsonl", "", "no/folder/out.jsonl"])
def test_outputs_that_cannot_be_are_refused(served: Served, tmp_path: Path, target: str) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(request("a"))

    async def run() -> None:
        async with httpx.AsyncClient(base_url=served.url) as client:
            await run_batch(source, tmp_path / target, client, BatchSettings())

    with pytest.raises(ConfigError, match=r"output|--output"):
        asyncio.run(run())
    assert source.read_text() == request("a")


def test_an_input_that_is_not_there_leaves_no_output(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        go(served, tmp_path)
    assert not (tmp_path / "out.jsonl").exists()


def test_a_server_that_is_gone_ends_the_run_and_blames_no_line(tmp_path: Path) -> None:
    class Gone:
        url = "http://127.0.0.1:9"

    with pytest.raises(EngineError, match=r"0 of 2 lines.*again"):
        go(Gone(), tmp_path, [request("a"), request("b")])  # type: ignore[arg-type]
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after(None) is retry_after("soon") is None
    assert retry_after("3") == 3.0
    assert retry_after("86400") == LONGEST_WAIT
    assert retry_after(email.utils.formatdate(time.time() - 60, usegmt=True)) == 0.0
    wait = retry_after(email.utils.formatdate(time.time() + 20, usegmt=True))
    assert wait is not None
    assert 18 < wait <= 20
