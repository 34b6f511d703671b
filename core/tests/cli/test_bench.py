"""`quire bench`: workloads, percentiles, and both commands against the fake engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from quire.cli._bench import Percentiles, make_workload

Run = Callable[..., Result]


class Tokenizer:
    """One token per word."""

    vocab_size = 50

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


def workload(**changes: Any) -> list[tuple[list[int], int]]:
    settings: dict[str, Any] = {
        "num_prompts": 5,
        "input_len": 8,
        "output_len": 4,
        "ragged": False,
        "text": None,
        "workload_seed": 0,
    }
    return [
        (item.prompt_ids, item.output_len) for item in make_workload(Tokenizer(), **{**settings, **changes})
    ]


def test_a_workload_is_reproducible_and_in_the_vocabulary() -> None:
    items = workload()
    assert items == workload()
    assert items != workload(workload_seed=1)
    assert len({tuple(ids) for ids, _ in items}) == 5
    assert all(len(ids) == 8 and output_len == 4 and max(ids) < 50 for ids, output_len in items)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 99))
def test_ragged_lengths_lie_between_a_quarter_and_the_whole(inputs: int, outputs: int, seed: int) -> None:
    for ids, output_len in workload(
        input_len=inputs, output_len=outputs, ragged=True, workload_seed=seed, num_prompts=8
    ):
        assert max(1, inputs // 4) <= len(ids) <= inputs
        assert max(1, outputs // 4) <= output_len <= outputs


def test_prompts_are_cut_from_a_text(tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text(" ".join(map(str, range(30))))
    for ids, _ in workload(text=file):
        assert ids == list(range(ids[0], ids[0] + 8))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300))
def test_percentiles_are_measured_values_in_order(seconds: list[float]) -> None:
    summary = Percentiles.of(seconds)
    assert summary is not None
    measured = {1e3 * value for value in seconds}
    assert {summary.p50, summary.p90, summary.p99, summary.max} <= measured
    assert summary.p50 <= summary.p90 <= summary.p99 <= summary.max == max(measured)
    for value, share in ((summary.p50, 0.5), (summary.p90, 0.9), (summary.p99, 0.99)):
        at_most = sum(1e3 * one <= value for one in seconds)
        assert at_most >= share * len(seconds)  # the definition of the nearest rank


def test_nothing_has_no_percentiles() -> None:
    assert Percentiles.of([]) is None


SMALL = ("--num-prompts", "3", "--input-len", "4", "--output-len", "5", "--max-num-seqs", "2")


def test_throughput_counts_tokens_and_times(fakes: Any, run: Run) -> None:
    result = run("bench", "throughput", "tiny", *SMALL, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["requests"], data["prompt_tokens"], data["output_tokens"]) == (3, 12, 15)
    assert data["output_tokens_per_second"] == pytest.approx(15 / data["seconds"])
    # The fake's requests arrive at 1.0, have their first token at 1.5 and their fifth and last at 3.0, the
    # others a quarter of a second after one another.
    assert [data["times_ms"][name]["p50"] for name in ("ttft", "tpot", "e2e")] == [500, 375, 2000]
    itl = data["times_ms"]["itl"]
    assert (itl["p50"], itl["p90"], itl["max"], itl["mean"]) == (250, 750, 750, 375)
    assert fakes.last.config.max_num_seqs == 2
    asked = fakes.last.asked
    assert len(asked) == 4  # one to warm up
    assert all(params.ignore_eos and params.max_tokens == 5 for _, params in asked[1:])
    assert fakes.last.down


def test_latency_times_every_token(fakes: Any, run: Run) -> None:
    result = run("bench", "latency", "tiny", *SMALL, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert (data["requests"], data["output_tokens"], len(fakes.last.asked)) == (3, 15, 4)
    times = data["times_ms"]
    assert 0 < times["ttft"]["max"] <= times["e2e"]["max"]
    assert times["itl"]["p50"] >= 0


@pytest.mark.parametrize("name", ["throughput", "latency"])
def test_the_table_is_for_people(fakes: Any, run: Run, name: str) -> None:
    result = run("bench", name, "tiny", *SMALL, "--output-len", "1", "--ragged")
    assert result.exit_code == 0, result.output
    assert "output tokens per second" in result.stdout
    assert any(line.split()[:2] in (["tpot", "-"], ["itl", "-"]) for line in result.stdout.splitlines())
    assert "started at once" in result.stderr


@pytest.mark.parametrize("name", ["throughput", "latency"])
def test_a_text_too_short_is_a_message(fakes: Any, run: Run, name: str, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text("abc")
    result = run("bench", name, "tiny", *SMALL, "--text", str(file))
    assert result.exit_code == 1
    assert "has 3 tokens, and --input-len asks for 4" in result.stderr
    assert fakes.last.down
