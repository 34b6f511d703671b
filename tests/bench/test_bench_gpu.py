"""`bench/gpu.py`: its arithmetic, its aims, what it makes of timelines and of processes that break."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_bench import child
from gpu_bench.aims import AIMS, judge
from gpu_bench.groups import PARTS, Group, groups
from gpu_bench.limits import limits_of
from gpu_bench.parent import read_lines, run_group, start_process
from gpu_bench.record import FIGURES, PartRecord, Report, Row
from gpu_bench.report import TITLES, report_text
from gpu_bench.roofline import Limits
from gpu_bench.shapes import MODELS, decode_read, prefill_flops
from gpu_bench.timeline import FROM, TO, idleness, spans

LIMITS = Limits(copy_gb_s=4000.0, gemm_tflop_s=800.0)


def report(*parts: PartRecord) -> Report:
    return Report(started="2026-01-02T03:04:05", command="c", device="d", versions={}, parts=parts)


def test_shapes_are_those_of_the_models() -> None:
    """Parameter counts of the published models: 8 030 261 248 and 1 235 814 400, norms included."""
    for name, parameters in (("8b", 8_030_261_248), ("1b", 1_235_814_400)):
        shape = MODELS[name]
        norms = (2 * shape.layers + 1) * shape.config["hidden_size"]
        table = 0 if shape.config["tie_word_embeddings"] else shape.vocab * shape.config["hidden_size"]
        assert shape.products + norms + table == parameters
    assert MODELS["8b"].kv_bytes == 131_072
    assert MODELS["1b"].kv_bytes == 32_768


def test_a_step_reads_weights_and_cache_once() -> None:
    shape = MODELS["8b"]
    assert shape.decode_bytes(1, 0) == 2 * 7_504_658_432
    assert shape.decode_bytes(64, 2048) - shape.decode_bytes(0, 0) == 64 * 2048 * 131_072
    assert shape.decode_flops(2, 0) == 4 * 7_504_658_432
    assert shape.decode_flops(1, 10) - shape.decode_flops(1, 0) == 4 * 10 * 32 * 4096
    assert shape.kv_bytes * 10 == shape.layers * decode_read(shape.heads, 1, 10, 2)


@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_causal_attention_counts_visible_pairs(tokens: int) -> None:
    pairs = sum(1 for row in range(tokens) for column in range(tokens) if column <= row)
    assert prefill_flops((8, 2, 16), tokens) == pairs * 8 * 16 * 4
    shape = MODELS["1b"]
    head = shape.vocab * 2048
    assert shape.prefill_flops(tokens) == (
        2 * (tokens * (shape.products - head) + head) + 16 * prefill_flops((32, 8, 64), tokens)
    )


def test_the_longer_of_two_times_bounds_a_step() -> None:
    assert LIMITS.least_seconds(8e9) == pytest.approx(2e-3)
    assert LIMITS.least_seconds(8e9, 0.8e12) == pytest.approx(2e-3)
    assert LIMITS.least_seconds(8e9, 3.2e12) == pytest.approx(4e-3)
    assert LIMITS.share(5e-3, 8e9) == pytest.approx(0.4)
    # 8B, one request at 1k: 15.0 GB of weights and 0.13 of cache at 4 TB/s
    step = MODELS["8b"].decode_bytes(1, 1024)
    assert LIMITS.least_seconds(step, MODELS["8b"].decode_flops(1, 1024)) == pytest.approx(3.786e-3, rel=1e-3)


def test_every_figure_and_part_is_told() -> None:
    assert set(TITLES) == set(PARTS)
    assert {aim.figure for aim in AIMS} <= set(FIGURES)
    assert {aim.part for aim in AIMS} <= set(PARTS)


def test_aims_are_judged_by_their_own_row() -> None:
    def decode(batch: int, share: float, model: str = "8b") -> Row:
        return Row(labels={"model": model, "batch": batch, "context": 1024}, figures={"roofline": share})

    rows = (decode(64, 0.1), decode(1, 0.85), decode(1, 0.69, "1b"))
    idle = Row(labels={"model": "8b", "batch": 64, "context": 1024}, figures={"idle": 0.03})
    verdicts = {
        one.aim.title: one
        for one in judge(
            report(
                PartRecord(part="decode", model="8b", state="failed", error="later", rows=rows),
                PartRecord(part="idle", model="8b", state="measured", rows=(idle,)),
            )
        )
    }
    words = {title: one.word for title, one in verdicts.items() if one.value is not None}
    assert words == {
        "8B decode, 1 request at 1k": "met",
        "1B decode, 1 request at 1k": "missed",
        "8B, 64 requests: GPU idle between steps": "missed",
    }
    assert sum(one.word == "not measured" for one in verdicts.values()) == len(AIMS) - 3


def test_the_report_tells_what_failed() -> None:
    row = Row(labels={"model": "8b", "batch": 1, "context": 1024}, figures={"ms": 4.2, "roofline": 0.9})
    other = Row(labels={"model": "8b", "batch": 64, "context": 8192}, note="left out: no time")
    text = report_text(
        report(
            PartRecord(part="decode", model="8b", state="measured", rows=(row, other)),
            PartRecord(part="workload", model="1b", state="failed", error="out of\n memory", seconds=3.2),
        )
    )
    assert "90.0%" in text
    assert "left out: no time" in text
    assert "**workload 1b failed** after 3 s: out of memory" in text
    line = next(line for line in text.splitlines() if "8B decode, 1 request" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")][1:] == ["85.0% or more", "90.0%", "met"]


def test_gaps_are_what_no_work_covers() -> None:
    # The window is 40 to 90 of 0 to 100: gaps of 1 at 50 and of 20, cut to 15, at 75.
    busy = [(0.0, 45.0), (30.0, 50.0), (51.0, 60.0), (52.0, 75.0), (95.0, 100.0)]
    found = idleness(busy)
    assert (FROM, TO) == (0.4, 0.9)
    assert found.waiting == pytest.approx(15 / 50)
    assert found.gaps == pytest.approx(16 / 50)
    with pytest.raises(RuntimeError, match="saw no work"):
        idleness([])


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 30)), min_size=2, max_size=30))
def test_idleness_equals_counting_moments(pieces: list[tuple[int, int]]) -> None:
    busy = sorted((float(start), float(start + length)) for start, length in pieces)
    first, last = busy[0][0], max(end for _, end in busy)
    start, stop = first + FROM * (last - first), first + TO * (last - first)
    cells = [start + (stop - start) * (i + 0.5) / 4000 for i in range(4000)]
    idle = sum(not any(begin <= cell < end for begin, end in busy) for cell in cells) / len(cells)
    found = idleness(busy)
    assert found.gaps == pytest.approx(idle, abs=0.02)
    assert 0 <= found.waiting <= found.gaps


def test_a_trace_is_read_by_category() -> None:
    events = [
        {"cat": "kernel", "ts": 5, "dur": 2.5, "name": "k"},
        {"cat": "gpu_memcpy", "ts": 1.0, "dur": 1},
        {"cat": "cpu_op", "ts": 0, "dur": 100},
        {"ph": "M", "name": "process_name"},
    ]
    assert spans({"traceEvents": events}, {"kernel", "gpu_memcpy"}) == [(1.0, 2.0), (5.0, 7.5)]


def test_limits_come_from_their_row() -> None:
    row = Row(labels={}, figures={"copy_gb_s": 4000.0, "gemm_tflop_s": 800.0})
    assert limits_of([row]) == LIMITS
    assert limits_of([]) is None


def test_limits_are_measured_first_and_time_is_bounded() -> None:
    assert groups(("idle",), False)[0].parts == ("limits",)
    assert [one.parts for one in groups(("idle",), False)[1:]] == [("idle",), ("idle",)]
    assert sum(one.seconds for one in groups(PARTS, False)) < 480
    for group in groups(PARTS, False):
        assert sum(group.soft_seconds(part) for part in group.parts) <= group.seconds


def said(*lines: dict[str, object]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


A_ROW = {"labels": {"batch": 1}, "figures": {"ms": 2.0}, "note": ""}


def test_a_broken_process_leaves_what_it_measured() -> None:
    text = said({"begin": "decode"}, {"row": A_ROW}, {"end": "decode", "error": "", "seconds": 2.0})
    text += said({"begin": "idle"}, {"row": A_ROW}) + '{"row": {"lab'
    told = read_lines(text, "8b")
    assert [(one.part, one.model, one.state, len(one.rows)) for one in told.parts] == [
        ("decode", "8b", "measured", 1)
    ]
    assert (told.begun, len(told.rows)) == ("idle", 1)


def test_the_others_go_on_in_a_new_process(tmp_path: Path) -> None:
    asked: list[tuple[str, ...]] = []

    def start(task: child.Task) -> str:
        asked.append(task.parts)
        if task.parts[0] == "decode":
            text = said({"begin": "decode"}, {"end": "decode", "error": "ValueError: x", "seconds": 1.0})
            task.file.write_text(text + said({"begin": "idle"}, {"row": A_ROW}))
            return "its process ended with 1: illegal memory access"
        task.file.write_text(said({"begin": "prefill"}, {"end": "prefill", "error": "", "seconds": 1.0}))
        return ""

    group = Group("8b", ("decode", "idle", "prefill"), 100.0)
    found = run_group(group, device="cuda", toy=False, limits=LIMITS, folder=tmp_path, start=start)
    assert asked == [("decode", "idle", "prefill"), ("prefill",)]
    assert [(one.part, one.state, one.error, len(one.rows)) for one in found] == [
        ("decode", "failed", "ValueError: x", 0),
        ("idle", "failed", "its process ended with 1: illegal memory access", 1),
        ("prefill", "measured", "", 0),
    ]


def test_what_never_begins_fails_at_once(tmp_path: Path) -> None:
    group = Group("8b", ("decode", "idle"), 100.0)
    found = run_group(
        group, device="cuda", toy=False, limits=None, folder=tmp_path, start=lambda task: "no memory"
    )
    assert [(one.state, one.error) for one in found] == [("failed", "no memory")] * 2


def test_processes_are_ended_in_time_and_quoted(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    task = child.Task(
        model="", parts=(), seconds=30.0, device="cpu", toy=True, limits=None, file=tmp_path / "a.jsonl"
    )
    script.write_text("import sys\nprint('first')\nsys.exit('last words')\n")
    assert start_process(script)(task) == "its process ended with 1: first | last words"
    script.write_text("import time\ntime.sleep(60)\n")
    assert start_process(script)(task.model_copy(update={"seconds": 0.5})) == "was ended after 0 s"
