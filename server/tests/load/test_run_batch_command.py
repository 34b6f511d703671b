"""`quire run-batch` as a user runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import Result

if TYPE_CHECKING:
    from server.tests.load.conftest import Served

Run = Callable[..., Result]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    source = tmp_path / "in.jsonl"
    lines: list[dict[str, object]] = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
        for name in ("a", "b", "c")
    ]
    source.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return ("-i", str(source), "-o", str(tmp_path / "out.jsonl"))


def test_a_batch_is_worked_through_with_a_key(served: Served, run: Run, files: tuple[str, ...]) -> None:
    result = run("run-batch", *files, "--url", f"{served.url}/v1", "--api-key", "k")
    assert result.exit_code == 0, result.output
    assert "3 of 3 lines done, 0 failed" in result.output
    assert {one["authorization"] for one in served.headers} == {"Bearer k"}


def test_failures_are_counted_now_and_later(served: Served, run: Run, files: tuple[str, ...]) -> None:
    served.next.extend(["bad"])
    for extra in ("", " (3 of them by an earlier run)"):
        result = run("run-batch", *files, "--url", served.url)
        assert result.exit_code == 1
        assert f"3 of 3 lines done{extra}, 1 failed" in result.output
    assert len(served.bodies) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--url or --model"),
        (["--url", "http://h", "--model", "tiny"], "--url or --model"),
        (["--url", "http://h", "--max-num-seqs", "4"], "go with --model"),
        (["--url", "nowhere"], "URL"),
    ],
)
def test_wrong_arguments_are_named(
    run: Run, files: tuple[str, ...], arguments: list[str], words: str
) -> None:
    result = run("run-batch", *files, *arguments)
    assert result.exit_code in (1, 2)
    assert words in result.stderr
