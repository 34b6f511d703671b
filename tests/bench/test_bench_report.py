"""Records and tables: rows replaced by later runs, ratios within a group, text, page and plot."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import pytest

from harness.markdown import align, number, page_part, replaced, report_text
from harness.plot import to_svg
from harness.record import Machine, PeerRecord, Report, Run, Sample, read_report, save, this_machine
from harness.table import limits, ratio, tables
from harness.workloads import WORKLOADS
from quire.errors import ConfigError

MACHINE = Machine(processor="Some CPU", cores=2, instructions=("avx2",), memory_gib=8.0)
PEERS = {
    "quire": PeerRecord(variant="bf16", baseline=True, state="measured", versions={"quire": "0.1"}),
    "rival": PeerRecord(variant="bf16", baseline=False, state="measured", versions={"rival": "2.0"}),
    "other": PeerRecord(variant="bf16", baseline=False, state="absent", note="there is no other; get it"),
    "roofline": PeerRecord(variant="bf16", baseline=False, state="measured"),
}


def sample(peer: str, workload: str, *, group: int = 0, disturbed: bool = False, **figures: float) -> Sample:
    """A sample with those figures."""
    return Sample(
        model="135m",
        workload=workload,
        peer=peer,
        group=group,
        round=0,
        others=0.5 if disturbed else 0.01,
        disturbed=disturbed,
        figures=figures,
    )


def run(*samples: Sample, started: str = "2026-01-02T03:04:05") -> Run:
    """A run that gave those samples."""
    return Run(
        started=started,
        command="--rounds 3",
        python="3.12.0",
        threads=2,
        max_others=0.05,
        peers=PEERS,
        samples=samples,
    )


REPORT = Report(
    machine=MACHINE,
    runs=(
        run(
            sample("quire", "single", decode_ms=10.0, ttft_ms=50.0),
            sample("quire", "single", decode_ms=12.0, ttft_ms=52.0),
            sample("quire", "single", decode_ms=11.0, ttft_ms=51.0),
            sample("rival", "single", decode_ms=22.0, ttft_ms=25.5, disturbed=True),
            sample("roofline", "single", decode_ms=5.5, ttft_ms=25.5, read_gb_s=40.0),
            sample("quire", "ragged", output_tok_s=600.0),
            sample("rival", "ragged", output_tok_s=400.0),
        ),
    ),
)


def test_medians_and_ratios() -> None:
    (table,) = tables(REPORT)
    assert table.peers == ("quire", "rival", "roofline")
    assert table.baseline == "quire"
    decode, first, ragged = table.rows
    assert decode.cells["quire"].median == 11.0
    assert decode.cells["quire"].ratio is None
    assert decode.cells["rival"].ratio == 2.0
    assert decode.cells["roofline"].ratio == 0.5  # half the limit is reached
    assert decode.best_peer == ("rival", 2.0)  # the limit is no peer
    assert first.cells["rival"].ratio == 0.5
    assert ragged.cells["rival"].ratio == 1.5
    assert "roofline" not in ragged.cells


def test_better_is_above_one_whatever_the_direction() -> None:
    for workload in WORKLOADS.values():
        for figure in workload.figures:
            ahead = ratio(figure, 2.0, 1.0) if figure.higher_is_better else ratio(figure, 1.0, 2.0)
            assert ahead == 2.0


def test_peers_are_compared_with_the_baseline_of_their_own_group() -> None:
    report = Report(
        machine=MACHINE,
        runs=(
            run(
                sample("quire", "ragged", group=0, output_tok_s=100.0),
                sample("quire", "ragged", group=1, output_tok_s=300.0),
                sample("rival", "ragged", group=1, output_tok_s=150.0),
            ),
        ),
    )
    (table,) = tables(report)
    assert table.rows[0].cells["rival"].ratio == 2.0
    assert table.rows[0].cells["quire"].median == 200.0


def test_what_an_engine_does_in_another_way_is_no_rival_of_it() -> None:
    four = {
        "quire-awq": PeerRecord(variant="4-bit", baseline=True, state="measured", holds="4 bits"),
        "quire-gptq": PeerRecord(variant="4-bit", baseline=False, state="measured", holds="4 bits"),
        "rival-q4": PeerRecord(variant="4-bit", baseline=False, state="measured", holds="4 bits, and 6"),
    }
    made = run(
        sample("quire-awq", "ragged", output_tok_s=100.0),
        sample("quire-gptq", "ragged", output_tok_s=125.0),
        sample("rival-q4", "ragged", output_tok_s=50.0),
    ).model_copy(update={"peers": four})
    report = Report(machine=MACHINE, runs=(made,))
    (table,) = tables(report)
    assert table.rows[0].cells["quire-gptq"].ratio == 0.8
    assert table.rows[0].best_peer == ("rival-q4", 2.0)
    assert "Weights: `quire-awq`, `quire-gptq`: 4 bits; `rival-q4`: 4 bits, and 6." in report_text(report)


def test_without_a_baseline_nothing_is_compared() -> None:
    (table,) = tables(Report(machine=MACHINE, runs=(run(sample("rival", "ragged", output_tok_s=1.0)),)))
    assert table.baseline is None
    assert table.rows[0].cells["rival"].ratio is None
    assert "best peer" not in report_text(Report(machine=MACHINE, runs=REPORT.runs[:0]))


def test_a_later_run_takes_the_place_of_the_same_rows() -> None:
    later = run(sample("quire", "ragged", output_tok_s=900.0), started="2026-02-02T00:00:00")
    report = REPORT.added(later)
    assert [len(one.samples) for one in report.runs] == [5, 1]
    (table,) = tables(report)
    assert table.rows[2].cells["quire"].median == 900.0
    assert "rival" not in table.rows[2].cells  # it was measured at another time
    assert [len(one.samples) for one in report.added(REPORT.runs[0]).runs] == [7]


def test_limits_of_the_machine() -> None:
    assert limits(REPORT, "135m") == {"read_gb_s": 40.0}
    assert limits(REPORT, "1b") == {}


def test_text_says_what_is_measured_absent_and_disturbed() -> None:
    text = report_text(REPORT)
    assert "22* (2.00)" in text
    assert "2.00, rival" in text
    assert "`other` is absent: there is no other; get it" in text
    assert "weights read at 40 GB/s" in text
    assert "`ragged`: 32 requests at once" in text
    assert "`prefix`" not in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1234, "0.12"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12 346")],
)
def test_numbers_have_the_digits_that_mean_something(value: float, shown: str) -> None:
    assert number(value) == shown


def test_columns_are_aligned() -> None:
    assert align([["a", "bb"], ["---", "---"], ["ccc", "d"]]) == "| a   | bb  |\n| --- | --- |\n| ccc | d   |"


def test_the_page_keeps_what_is_written_by_hand() -> None:
    page = "before\n<!-- x begins: written by bench/page.py -->\nold\n<!-- x ends -->\nafter\n"
    once = replaced(page, "x", "new")
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    assert replaced(once, "x", "new") == once
    for broken in ("no markers", page + page):
        with pytest.raises(ValueError, match="The page must have"):
            replaced(broken, "x", "new")


def test_the_part_names_machine_versions_and_command() -> None:
    part = page_part(REPORT, "plot.svg")
    for said in ("Some CPU", "rival 2.0", "2026-01-02", "side_by_side.py --rounds 3", "plot.svg"):
        assert said in part


def test_the_plot_has_a_bar_for_every_cell() -> None:
    found = tables(REPORT)
    root = xml.etree.ElementTree.fromstring(to_svg(found))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + sum(len(row.cells) for row in found[0].rows)


def test_results_are_added_to_their_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "results.json"
    assert save(path, REPORT.runs[0], MACHINE) == read_report(path) == REPORT
    with pytest.raises(ConfigError, match="another machine"):
        save(path, REPORT.runs[0], MACHINE.model_copy(update={"cores": 64}))
    path.write_text('{"format": 2}')
    with pytest.raises(ConfigError, match="holds no results"):
        read_report(path)


def test_this_machine_has_a_name_and_cores() -> None:
    machine = this_machine()
    assert machine.processor
    assert machine.cores >= 1
    assert machine.memory_gib > 0
