"""A run as a picture: distributions of TTFT and ITL, and what happened over time. SVG, written by hand."""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

from quire.errors import ConfigError
from quire_server.bench.axes import FAINT, FONT, INK, Panel
from quire_server.bench.client import Sample
from quire_server.bench.figures import Summary, percentile
from quire_server.bench.load import Run

WIDTH, HEIGHT = 960, 860
TTFT, ITL, RATE, FLIGHT, FAILED = "#2563eb", "#7c3aed", "#0f766e", "#b45309", "#dc2626"
BINS = 60
MAX_POINTS = 400
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def cdf(values: Sequence[float]) -> list[tuple[float, float]]:
    """Points of the empirical distribution function, at most `MAX_POINTS` and a few."""
    ordered = sorted(values)
    count = len(ordered)
    picked = sorted({math.ceil(i * (count - 1) / MAX_POINTS) for i in range(MAX_POINTS + 1)}) if count else []
    return [(0.0, 0.0), *((ordered[i], (i + 1) / count) for i in picked)]


def in_flight(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Number of requests under way, after each change; a failure ends where its last token came."""
    changes: Counter[float] = Counter()
    for one in samples:
        changes[one.sent] += 1
        changes[one.times[-1] if one.times else one.sent] -= 1
    points, running = [(0.0, 0.0)], 0
    for moment in sorted(changes):
        running += changes[moment]
        points.append((moment, float(running)))
    every = math.ceil(len(points) / (4 * MAX_POINTS))
    return [*points[::every], points[-1]]


def rate(samples: Sequence[Sample], seconds: float) -> list[tuple[float, float]]:
    """Output tokens per second in each of `BINS` spans; a request's tokens are spread over its chunks."""
    width = seconds / BINS
    spans = [0.0] * BINS
    for one in samples:
        for moment in one.times:
            spans[min(BINS - 1, int(moment / width))] += one.output_tokens / len(one.times)
    return [(i * width, tokens / width) for i, tokens in enumerate(spans)] + [(seconds, 0.0)]


def to_svg(run: Run, summary: Summary) -> str:
    """The picture. Valid for a run in which every request failed, too."""
    good = [one for one in run.samples if one.failure is None]
    seconds = max(run.seconds, 1e-9)
    panels = [
        _distribution(70, "Time to first token", [1e3 * one.ttft for one in good], TTFT),
        _distribution(555, "Inter-token latency", [1e3 * gap for one in good for gap in one.itl], ITL),
    ]
    tokens, flight = rate(run.samples, seconds), in_flight(run.samples)
    over_time = Panel(
        70, 420, 845, 150, title="Output tokens per second", label="s", most_x=seconds, most_y=_most(tokens)
    )
    over_time.steps(tokens, RATE, filled=True)
    running = Panel(
        70, 650, 845, 120, title="Requests in flight", label="s", most_x=seconds, most_y=_most(flight)
    )
    running.steps(flight, FLIGHT, filled=True)
    for one in run.samples:
        if one.failure is not None:
            running.cross(one.sent, FAILED)
    panels += [over_time, running]
    body = "\n".join(part for panel in panels for part in panel.parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' "
        f"height='{HEIGHT}'>\n<rect width='100%' height='100%' fill='white'/>\n"
        f"{_heading(run, summary)}\n{body}\n</svg>\n"
    )


def write(path: Path, run: Run, summary: Summary) -> None:
    """Write a plot, as SVG or, through an installed Chromium or Chrome, as PNG, by the file's suffix.

    Raises:
        ConfigError: see `check`; or the browser fails.
    """
    browser = check(path)
    svg = to_svg(run, summary)
    if browser is None:
        path.write_text(svg, encoding="utf-8")
        return
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "plot.svg"
        page.write_text(svg, encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={WIDTH},{HEIGHT}"]
        command += [f"--screenshot={path.resolve()}", page.as_uri()]
        result = subprocess.run(command, capture_output=True, timeout=120, check=False)
    if result.returncode or not path.exists():
        raise ConfigError(f"{browser} could not draw {path}: write an .svg instead.")


def check(path: Path) -> str | None:
    """The browser that a plot's format needs, None for SVG. Called before a run, so that none is in vain.

    Raises:
        ConfigError: the format is not known, or nothing here can draw it.
    """
    if path.suffix == ".svg":
        return None
    if path.suffix != ".png":
        raise ConfigError(f"--plot {path}: plots are .svg or .png files.")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise ConfigError(f"--plot {path}: PNG needs Chromium or Chrome, and neither is on PATH: use .svg.")
    return browser


def _distribution(x: float, title: str, values: list[float], colour: str) -> Panel:
    ordered = sorted(values)
    # The axis ends at p99 and a bit: one outlier would press all else against the left edge.
    end = percentile(ordered, 99) * 1.1 if ordered else 1.0
    panel = Panel(x, 110, 360, 230, title=title, label="ms", most_x=end, most_y=1.0)
    shown = [(value, share) for value, share in cdf(values) if value <= end]
    panel.steps(shown, colour)
    for row, percent in enumerate((99, 90, 50)):
        if ordered:
            at = percentile(ordered, percent)
            panel.mark(at, f"p{percent} {at:.1f}", INK if percent == 50 else FAINT, row)
    return panel


def _heading(run: Run, summary: Summary) -> str:
    settings = run.settings
    load = (
        f"{settings.concurrency} at a time"
        if settings.request_rate is None
        else f"{settings.request_rate:g} requests/s"
    )
    failed = summary.requests - summary.completed
    prefix = f"{settings.prefix_length}+" if settings.prefix_length else ""
    done = f"{summary.completed} requests in {summary.seconds:.1f} s"
    rates = f"{summary.output_tokens_per_second:.1f} output tokens/s"
    lines = [
        f"{settings.model}: {load}, prompts {prefix}{settings.input_len}, outputs {settings.output_len}",
        f"{done} ({summary.requests_per_second:.2f}/s), {rates}"
        + (f", {failed} failed (crosses)" if failed else ""),
    ]
    return "\n".join(
        f"<text x='40' y='{y}' font-size='{size}' font-weight='{weight}' fill='{colour}' {FONT}>"
        f"{escape(line)}</text>"
        for line, y, size, weight, colour in zip(
            lines, (36, 60), (18, 13), (700, 400), (INK, FAINT), strict=True
        )
    )


def _most(points: Sequence[tuple[float, float]]) -> float:
    return max((y for _, y in points), default=1.0)
