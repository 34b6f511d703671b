"""Samples made into tables: medians, how far ahead the baseline is, the limit beside them.

Knows records; measures and prints nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness.record import PeerRecord, Report, Sample
from harness.workloads import WORKLOADS, Figure

LIMIT = "roofline"
"""Prefix of the peers that are no engines."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What a peer reached in one figure.

    Attributes:
        median: over its rounds.
        ratio: how many times better the baseline is than this peer, measured in the same group; above 1 the
            baseline is ahead. None for the baseline itself, or where one of the two is missing.
        disturbed: some of it was measured while the machine was busy with something else.
    """

    median: float
    ratio: float | None
    disturbed: bool


def engine(peer: str) -> str:
    """The engine that a peer is a variant of: what its name begins with."""
    return peer.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of all peers; peers that have it not are not in it.

    Attributes:
        own: the baseline's engine.
    """

    figure: Figure
    cells: dict[str, Cell]
    own: str = ""

    @property
    def best_peer(self) -> tuple[str, float] | None:
        """The peer that is ahead of all but the baseline's engine, and its ratio; None if there is none."""
        ratios = [
            (cell.ratio, name)
            for name, cell in self.cells.items()
            if cell.ratio is not None and engine(name) not in (self.own, LIMIT)
        ]
        return min(ratios)[::-1] if ratios else None


@dataclass(frozen=True, slots=True)
class Table:
    """All figures of one model and variant.

    Attributes:
        peers: columns, the baseline first and the limit last.
        baseline: that the others are compared with; None if it was not measured.
        holds: by peer, how it keeps the weights, where it was said.
    """

    model: str
    variant: str
    peers: tuple[str, ...]
    baseline: str | None
    rows: tuple[Row, ...]
    holds: dict[str, str]


def ratio(figure: Figure, baseline: float, peer: float) -> float:
    """How many times better the baseline is than the peer."""
    return baseline / peer if figure.higher_is_better else peer / baseline


def tables(report: Report) -> list[Table]:
    """One table per model and variant, as far as anything was measured."""
    peers: dict[str, PeerRecord] = {}
    samples: list[Sample] = []
    for run in report.runs:
        samples += run.samples
        measured = {one.peer for one in run.samples}
        peers |= {name: peer for name, peer in run.peers.items() if name in measured}
    found = []
    for model in dict.fromkeys(one.model for one in samples):
        for variant in dict.fromkeys(peer.variant for peer in peers.values()):
            columns = _columns({name: peer for name, peer in peers.items() if peer.variant == variant})
            own = [one for one in samples if one.model == model and one.peer in columns]
            baseline = next((name for name in columns if peers[name].baseline), None)
            if rows := _rows(columns, own, baseline):
                shown = tuple(name for name in columns if any(name in row.cells for row in rows))
                holds = {name: peers[name].holds for name in shown if peers[name].holds}
                found.append(Table(model, variant, shown, baseline, tuple(rows), holds))
    return found


def _columns(peers: dict[str, PeerRecord]) -> tuple[str, ...]:
    def place(name: str) -> int:
        return -1 if peers[name].baseline else int(name.startswith(LIMIT))

    return tuple(sorted(peers, key=place))


def _rows(columns: Sequence[str], samples: Sequence[Sample], baseline: str | None) -> list[Row]:
    rows = []
    for workload in WORKLOADS.values():
        own = [one for one in samples if one.workload == workload.name]
        for figure in workload.figures:
            cells = {
                name: _cell(figure, name, baseline, own)
                for name in columns
                if any(one.peer == name and figure.name in one.figures for one in own)
            }
            if cells:
                rows.append(Row(figure, cells, engine(baseline or "")))
    return rows


def _cell(figure: Figure, peer: str, baseline: str | None, samples: Sequence[Sample]) -> Cell:
    def median(name: str, groups: set[int]) -> float | None:
        values = [
            one.figures[figure.name]
            for one in samples
            if one.peer == name and one.group in groups and figure.name in one.figures
        ]
        return statistics.median(values) if values else None

    mine = [one for one in samples if one.peer == peer and figure.name in one.figures]
    groups = {one.group for one in mine}
    value = median(peer, groups)
    assert value is not None
    base = median(baseline, groups) if baseline is not None and baseline != peer else None
    against = None if base is None else ratio(figure, base, value)
    return Cell(value, against, any(one.disturbed for one in mine))


def limits(report: Report, model: str) -> dict[str, float]:
    """Medians of what the limit's loops reached: `read_gb_s` and `gemm_gflop_s`."""
    shown = {}
    for name, workload in (("read_gb_s", "single"), ("gemm_gflop_s", "prefill")):
        values = [
            one.figures[name]
            for run in report.runs
            for one in run.samples
            if (one.model, one.workload) == (model, workload) and one.peer == LIMIT and name in one.figures
        ]
        if values:
            shown[name] = statistics.median(values)
    return shown
