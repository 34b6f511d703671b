"""A run as Markdown, for the terminal and for the page of the documentation. Knows text alone."""

from __future__ import annotations

from collections.abc import Sequence

from gpu_bench.aims import judge
from gpu_bench.record import FIGURES, PartRecord, Report, Row
from harness.markdown import align, number

TITLES = {
    "limits": "A copy of 4 GiB on the device, bytes read and written; a bf16 product of 8192 cubed.",
    "attention": "One layer's attention alone. Decode by bytes of K and V, prefill by the visible half's "
    "operations. Quire's write K and V and follow block tables; PyTorch's flash kernel (`sdpa`) is given "
    "them contiguous, with nothing to write. Caches take turns, so that none is read from L2.",
    "wna16": "Products of rows in bf16 with a weight of 4 bits (groups of 128, zero points), and with one in "
    "bf16 by cuBLAS. Bytes are the weight's as packed. Weights take turns, so that none is read from L2.",
    "decode": "A decode step of the whole engine, median time between tokens. Of the roofline: max((weights "
    "+ K and V of the context) / copy bandwidth, operations / GEMM rate) / time.",
    "idle": "The device between decode steps, by the profiler's timeline of kernels and copies: the share in "
    "gaps of 5 us or more, where it waits for the host; and in all gaps, between a graph's kernels too.",
    "prefill": "One prompt, from the call until its first token. Of the GEMM rate: operations / time / rate.",
    "workload": "256 requests at once, prompts and outputs of 100 to 1024 tokens, sampled.",
    "transformers": "Hugging Face transformers and Quire on the same weights and requests, greedy.",
}
"""What each part is, in the order of the report."""


def report_text(report: Report) -> str:
    """All parts, then the aims."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))
    parts = [f"{report.started[:10]}, `{report.command}`; {report.device}; {versions}."]
    for name, title in TITLES.items():
        of_part = [one for one in report.parts if one.part == name]
        if not of_part:
            continue
        parts.append(f"### {name}\n\n{title}")
        if rows := report.rows(name):
            parts.append(rows_text(rows))
        parts += [failure_text(one) for one in of_part if one.state == "failed"]
    parts.append("### aims")
    parts.append(aims_text(report))
    return "\n\n".join(parts)


def rows_text(rows: Sequence[Row]) -> str:
    """Rows as a table: labels, figures, and notes if there are any."""
    labels = list(dict.fromkeys(label for row in rows for label in row.labels))
    present = {figure for row in rows for figure in row.figures}
    figures = [name for name in FIGURES if name in present]
    noted = any(row.note for row in rows)
    head = [*labels, *(FIGURES[name][0] for name in figures), *(["note"] if noted else [])]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        line = [str(row.labels.get(label, "")) for label in labels]
        line += [figure_text(name, row.figures.get(name)) for name in figures]
        lines.append([*line, row.note] if noted else line)
    return align(lines)


def figure_text(name: str, value: float | None) -> str:
    """Three digits, or per cent."""
    if value is None:
        return ""
    return f"{value:.1%}" if FIGURES[name][1] else number(value)


def failure_text(part: PartRecord) -> str:
    """What broke, on one line."""
    subject = f"{part.part} {part.model}".strip()
    return f"**{subject} failed** after {part.seconds:.0f} s: {' '.join(part.error.split())}"


def aims_text(report: Report) -> str:
    """Each aim beside the result."""
    lines = [["aim", "wanted", "measured", ""], ["---"] * 4]
    for verdict in judge(report):
        aim = verdict.aim
        wanted = figure_text(aim.figure, aim.bound)
        wanted = f"under {wanted}" if aim.at_most else f"{wanted} or more"
        lines.append([aim.title, wanted, figure_text(aim.figure, verdict.value), verdict.word])
    return align(lines)
