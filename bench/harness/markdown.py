"""Tables as Markdown: for the terminal, and for the page of the documentation. Knows text alone."""

from __future__ import annotations

from collections.abc import Sequence

from harness.record import Report, Run
from harness.table import Cell, Table, limits, tables
from harness.workloads import WORKLOADS

BEGIN = "<!-- {} begins: written by bench/page.py -->"
END = "<!-- {} ends -->"


def number(value: float) -> str:
    """Three digits, or all before the point if there are more."""
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}" if value >= 1 else f"{value:.2g}"


def cell_text(cell: Cell | None) -> str:
    """`12.6 (1.20)`: the median, and how far ahead the baseline is; `*` if others used the machine."""
    if cell is None:
        return ""
    mark = "*" if cell.disturbed else ""
    behind = f" ({cell.ratio:.2f})" if cell.ratio is not None else ""
    return f"{number(cell.median)}{mark}{behind}"


def table_text(table: Table) -> str:
    """One table."""
    head = ["", "unit", *table.peers]
    if table.baseline is not None:
        head.append(f"{table.baseline} / best peer")
    lines = [head, ["---"] * len(head)]
    for row in table.rows:
        line = [row.figure.label, row.figure.unit, *(cell_text(row.cells.get(name)) for name in table.peers)]
        if table.baseline is not None:
            line.append("{1:.2f}, {0}".format(*row.best_peer) if row.best_peer else "")
        lines.append(line)
    return align(lines)


def align(lines: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table that also reads well as plain text."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    shown = []
    for line in lines:
        fill = "-" if line[0] == "---" else " "
        cells = [text.ljust(width, fill) for text, width in zip(line, widths, strict=True)]
        shown.append("| " + " | ".join(cells) + " |")
    return "\n".join(shown)


def report_text(report: Report) -> str:
    """All tables of a report, with what they need to be understood."""
    parts = []
    for table in tables(report):
        parts.append(f"### {table.model}, {table.variant}\n\n{table_text(table)}")
        if table.holds:
            parts.append(holds_text(table.holds))
        if table.variant == "bf16" and (reached := limits(report, table.model)):
            parts.append(limits_text(reached))
    parts.append(workloads_text(report))
    if notes := [note for run in report.runs for note in peer_notes(run)]:
        parts.append("\n".join(dict.fromkeys(notes)))
    return "\n\n".join(parts)


def holds_text(holds: dict[str, str]) -> str:
    """How peers keep the weights, those that do it alike together."""
    alike: dict[str, list[str]] = {}
    for name, text in holds.items():
        alike.setdefault(text, []).append(f"`{name}`")
    return "Weights: " + "; ".join(f"{', '.join(names)}: {text}" for text, names in alike.items()) + "."


def limits_text(reached: dict[str, float]) -> str:
    """What the loops of the limit reached."""
    units = {"read_gb_s": "weights read at {} GB/s", "gemm_gflop_s": "bf16 matrix products at {} GFLOP/s"}
    shown = [text.format(number(reached[name])) for name, text in units.items() if name in reached]
    return f"Limit (`roofline`) in the same rounds: {', '.join(shown)}."


def workloads_text(report: Report) -> str:
    """What the measured workloads are."""
    measured = {one.workload for run in report.runs for one in run.samples}
    shown = [f"`{one.name}`: {one.title}" for one in WORKLOADS.values() if one.name in measured]
    return "Workloads: " + "; ".join(shown) + "."


def peer_notes(run: Run) -> list[str]:
    """Lines on peers that are not in the tables."""
    return [f"- `{name}` is {peer.state}: {peer.note}" for name, peer in run.peers.items() if peer.note]


def page_part(report: Report, plot: str) -> str:
    """The part of the documentation's page that is written from a report."""
    machine = report.machine
    dates = sorted({run.started[:10] for run in report.runs})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    versions: dict[str, str] = {}
    for run in report.runs:
        for name, peer in run.peers.items():
            if peer.state == "measured" and name in {one.peer for one in run.samples}:
                versions |= peer.versions
    where = (
        f"{days}; {machine.processor}, {machine.cores} cores ({', '.join(machine.instructions)}), "
        f"{machine.memory_gib:.0f} GiB, {max(run.threads for run in report.runs)} threads, "
        f"Python {report.runs[-1].python}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        + "."
    )
    how = (
        "Medians. In brackets: how many times better the first column is than that peer in the same rounds "
        "(above 1 it is ahead; under `roofline`, the share of the limit that it reaches). "
        "`*`: others used the machine meanwhile."
    )
    commands = "\n".join(f"$ python bench/side_by_side.py {run.command}" for run in report.runs)
    return "\n\n".join(
        [where, how, report_text(report), f"![Side by side]({plot})", f"```console\n{commands}\n```"]
    )


def replaced(page: str, name: str, part: str) -> str:
    """The page with the part of that name, which stands between its markers, replaced.

    Raises:
        ValueError: the page has not both markers, once each and in order.
    """
    first, last = BEGIN.format(name), END.format(name)
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end or first in rest or last in after:
        raise ValueError(f"The page must have {first!r} and after it {last!r}, once each.")
    return f"{before}{first}\n\n{part}\n\n{last}{after}"
