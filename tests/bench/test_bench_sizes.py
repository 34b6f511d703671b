"""Cost against size: points, the time of a step, the tables; and the sweep itself on a tiny model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.record import Machine
from harness.sizes import Point, SizeReport, grid, sizes_text, step_seconds

BENCH = Path(__file__).resolve().parents[2] / "bench"


def test_points_that_do_not_fit_are_left_out() -> None:
    assert grid([1, 4], [100, 200], 400) == [(1, 100), (4, 100), (1, 200)]
    assert grid([8], [100], 400) == []


def test_a_step_counts_while_all_decode() -> None:
    early = [0.0, 5.0, 6.0, 7.0, 9.0]
    late = [6.0, 7.0, 9.0, 11.0, 20.0]  # alone after 9.0
    assert step_seconds([early, late]) == 1.5
    with pytest.raises(ValueError, match="did not decode together"):
        step_seconds([[0.0, 1.0], [1.0, 2.0]])


def test_tables_leave_room_for_what_was_not_measured() -> None:
    report = SizeReport(
        started="2026-01-02T03:04:05",
        command="--rounds 1",
        machine=Machine(processor="Some CPU", cores=2, instructions=(), memory_gib=8.0),
        model="135m",
        versions={"quire": "0.1"},
        points=(
            Point(batch=1, context=256, step_ms=5.0, prefill_tok_s=1000.0),
            Point(batch=8, context=256, step_ms=9.5, prefill_tok_s=2000.0),
            Point(batch=1, context=512, step_ms=6.0, prefill_tok_s=900.0),
        ),
    )
    text = sizes_text(report)
    assert "| context | 1   | 8   |" in text
    assert "| 256     | 5   | 9.5 |" in text
    assert "| 512     | 6   |     |" in text
    assert "| 256     | 1 000 | 2 000 |" in text
    assert "Some CPU" in text


@pytest.mark.slow
def test_the_sweep_on_a_tiny_model(tmp_path: Path) -> None:
    out = tmp_path / "sizes.json"
    command = [sys.executable, str(BENCH / "sizes.py"), "--model", "tiny", "--batches", "1,3"]
    command += ["--contexts", "48,4096", "--most-tokens", "4500", "--rounds", "1", "--json", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    report = SizeReport.model_validate(json.loads(out.read_text()))
    assert [(one.batch, one.context) for one in report.points] == [(1, 48), (3, 48), (1, 4096)]
    assert all(one.step_ms > 0 and one.prefill_tok_s > 0 for one in report.points)
