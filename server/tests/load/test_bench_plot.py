"""Plots: well-formed, true to the numbers, and drawn for every run."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import ConfigError
from quire_server.bench import LoadSettings, Run, summarise
from quire_server.bench import plot as plots
from quire_server.bench.axes import ticks
from quire_server.bench.client import Sample


def make_run(count: int = 50, failed: int = 3, model: str = "a<b>&'c'") -> Run:
    samples = [
        Sample(
            i,
            8,
            4,
            due=0.1 * i,
            sent=0.1 * i,
            output_tokens=4,
            times=[0.1 * i + 0.05 * j for j in (1, 2, 3, 4)],
        )
        for i in range(count)
    ]
    for one in samples[:failed]:
        one.failure, one.times = "http_500", []
    return Run(LoadSettings(model=model), "http://h", 0.0, 0.1 * count + 0.2, samples, None)


def draw(run: Run) -> ET.Element:
    return ET.fromstring(plots.to_svg(run, summarise(run.samples, run.seconds)))


def texts(svg: ET.Element) -> list[str]:
    return [one.text or "" for one in svg.iter("{http://www.w3.org/2000/svg}text")]


def test_a_plot_is_well_formed_and_says_its_numbers() -> None:
    shown = texts(draw(make_run()))
    assert any("a<b>&'c'" in one for one in shown)
    assert any("47 requests" in one and "3 failed" in one for one in shown)
    assert shown.count("p50 50.0") == 2  # TTFT and ITL of this run are both 50 ms


@pytest.mark.parametrize(("count", "failed"), [(1, 0), (1, 1), (5, 5), (3000, 0)])
def test_every_run_has_a_plot(count: int, failed: int) -> None:
    assert draw(make_run(count, failed)) is not None


def test_a_single_token_each_leaves_itl_empty() -> None:
    run = make_run()
    for one in run.samples:
        one.times, one.output_tokens = one.times[:1], 1
    assert sum("p50" in one for one in texts(draw(run))) == 1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=2000))
def test_a_distribution_function_rises_to_one(values: list[float]) -> None:
    points = plots.cdf(values)
    assert points == sorted(points)
    assert points[-1] == (max(values), 1.0)
    assert len(points) <= plots.MAX_POINTS + 2
    for at, share in points[1:]:
        assert share <= sum(one <= at for one in values) / len(values) + 1e-12


def test_tokens_over_time_add_up() -> None:
    run = make_run(failed=0)
    points = plots.rate(run.samples, run.seconds)
    spans = [later[0] - earlier[0] for earlier, later in itertools.pairwise(points)]
    assert sum(rate * span for (_, rate), span in zip(points, spans, strict=False)) == pytest.approx(200)


def test_requests_in_flight_rise_and_fall() -> None:
    run = make_run(failed=0)
    points = plots.in_flight(run.samples)
    assert max(running for _, running in points) == 3  # each lasts 0.2 s, one begins every 0.1 s
    assert points[-1] == (run.samples[-1].times[-1], 0.0)


@given(st.floats(1e-6, 1e9))
def test_ticks_are_few_and_cover(most: float) -> None:
    found = ticks(most)
    assert found[0] == 0
    assert found[-1] >= most * (1 - 1e-9)
    assert 3 <= len(found) <= 7


def test_formats_are_checked_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert plots.check(Path("a.svg")) is None
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        plots.check(Path("a.jpg"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="Chromium"):
        plots.check(Path("a.png"))


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, plots.BROWSERS)), reason="needs Chromium")
def test_png_is_drawn_by_a_browser(tmp_path: Path) -> None:
    run = dataclasses.replace(make_run(), url="http://other")
    target = tmp_path / "plot.png"
    plots.write(target, run, summarise(run.samples, run.seconds))
    header = target.read_bytes()[:24]
    assert header.startswith(b"\x89PNG")
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (plots.WIDTH, plots.HEIGHT)
