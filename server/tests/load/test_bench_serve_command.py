"""`quire bench serve` as a user runs it."""

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


def test_a_run_prints_a_table_and_writes_json_and_a_plot(served: Served, run: Run, tmp_path: Path) -> None:
    file, plot = tmp_path / "run.json", tmp_path / "run.svg"
    result = run(
        *("bench", "serve", "--url", f"{served.url}/v1", "--num-requests", "6", "--concurrency", "2"),
        *("--input-len", "4:9", "--output-len", "3:5", "--prefix-length", "4", "--num-prefixes", "2"),
        *("--slo", "ttft=20s", "--json", str(file), "--plot", str(plot), "--api-key", "not-to-be-written"),
    )
    assert result.exit_code == 0, result.output
    assert "6 of 6" in result.output
    for word in ("TTFT", "TPOT", "ITL", "E2E", "p50", "p90", "p95", "p99", "goodput"):
        assert word in result.output
    content = json.loads(file.read_text())
    assert "not-to-be-written" not in file.read_text()
    assert content["settings"]["input_len"] == "4:9"
    assert content["slo"] == {"ttft": 20.0}
    assert content["summary"]["completed"] == 6
    assert set(content["summary"]["ttft_ms"]) == {"mean", "p50", "p90", "p95", "p99"}
    assert len(content["requests"]) == 6
    assert all(len(one["times"]) == one["output_tokens"] for one in content["requests"])
    assert content["versions"]["quire-server"]
    assert plot.read_text().startswith("<svg")


def test_failures_make_the_exit_code_1_and_say_why(served: Served, run: Run) -> None:
    served.next.extend(["", "busy", ""])
    result = run("bench", "serve", "--url", served.url, "--num-requests", "3", "--concurrency", "1")
    assert result.exit_code == 1
    assert "failed: http_429" in result.output
    assert "full" in result.stderr


def test_a_hundred_requests_unless_told_otherwise(served: Served, run: Run) -> None:
    result = run("bench", "serve", "--url", served.url, "--output-len", "1", "--warmup", "0")
    assert result.exit_code == 0, result.output
    assert len(served.bodies) == 100


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input-len", "9:3"], "LOW:HIGH"),
        (["--slo", "ttft=soon"], "soon"),
        (["--request-rate", "0"], "--request-rate"),
        (["--plot", "x.gif"], ".svg or .png"),
        (["--json", "no/such/folder/x.json"], "no folder"),
        (["--url", "localhost:8000"], "URL"),
        (["--url", "http://127.0.0.1:9"], "No server answers"),
    ],
)
def test_wrong_arguments_are_named(run: Run, arguments: list[str], words: str) -> None:
    result = run("bench", "serve", *arguments)
    assert result.exit_code in (1, 2)
    assert words in " ".join(result.stderr.split())
