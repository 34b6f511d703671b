"""A run as a table for people and as JSON for everything else."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import math
import platform
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from quire_server.bench.figures import PERCENTILES, Figures, Summary
from quire_server.bench.load import Run

LATENCIES = ("ttft", "tpot", "itl", "e2e")
_DIGITS = 6  # microseconds


def to_json(run: Run, summary: Summary, limits: dict[str, float]) -> dict[str, Any]:
    """Everything: settings, versions, figures, and each request. Times in seconds unless the name says ms."""
    settings = dataclasses.asdict(run.settings)
    settings |= {name: str(getattr(run.settings, name)) for name in ("input_len", "output_len", "token_ids")}
    if run.settings.request_rate == math.inf:
        settings["request_rate"] = "inf"  # JSON has no infinity
    figures = dataclasses.asdict(summary)
    times = {f"{name}_ms": figures.pop(name) for name in LATENCIES}
    return {
        "url": run.url,
        "started": datetime.datetime.fromtimestamp(run.started, datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "quire-server": importlib.metadata.version("quire-server"),
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        "served": run.server,
        "settings": settings,
        "slo": limits,
        "summary": figures | times,
        "requests": [_rounded(dataclasses.asdict(one)) for one in run.samples],
    }


def _rounded(sample: dict[str, Any]) -> dict[str, Any]:
    for name in ("due", "sent"):
        sample[name] = round(sample[name], _DIGITS)
    sample["times"] = [round(one, _DIGITS) for one in sample["times"]]
    return sample


def print_table(summary: Summary, console: Console) -> None:
    """Totals, then a row per latency."""
    totals = Table(box=None, show_header=False, pad_edge=False)
    totals.add_column()
    totals.add_column(justify="right")
    for name, value in _totals(summary):
        totals.add_row(name, value)
    console.print(totals)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("ms")
    for title in ("mean", *(f"p{percent}" for percent in PERCENTILES)):
        table.add_column(title, justify="right")
    for name in LATENCIES:
        figures: Figures | None = getattr(summary, name)
        cells = ["-"] * (1 + len(PERCENTILES))
        if figures is not None:
            cells = [f"{value:.2f}" for value in dataclasses.astuple(figures)]
        table.add_row(name.upper(), *cells)
    console.print(table)
    for warning in _warnings(summary):
        console.print(warning, style="yellow", soft_wrap=True)


def _totals(summary: Summary) -> list[tuple[str, str]]:
    rows = [
        ("requests completed", f"{summary.completed} of {summary.requests}"),
        *((f"  failed: {reason}", str(count)) for reason, count in sorted(summary.failures.items())),
        ("duration", f"{summary.seconds:.2f} s"),
        ("prompt tokens", str(summary.prompt_tokens)),
        ("output tokens", str(summary.output_tokens)),
        ("output tokens/s", f"{summary.output_tokens_per_second:.1f}"),
        ("requests/s", f"{summary.requests_per_second:.2f}"),
    ]
    if summary.goodput is not None:
        rows.append(("goodput, requests/s", f"{summary.goodput:.2f}"))
    return rows


def _warnings(summary: Summary) -> list[str]:
    texts = []
    if summary.wrong_length:
        texts.append(
            f"{summary.wrong_length} requests got another number of tokens than they asked for: "
            "the server does not honour ignore_eos, or its context ended."
        )
    if summary.late > summary.requests // 20:
        texts.append(
            f"{summary.late} requests were sent later than they were due: the client, or its limit "
            "--concurrency, was the bottleneck. Latencies count from when they were due."
        )
    if summary.counted_by.get("chunks"):
        texts.append(
            f"{summary.counted_by['chunks']} requests came without usage: their tokens are chunks counted."
        )
    return texts
