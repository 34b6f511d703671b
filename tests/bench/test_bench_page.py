"""The page of benchmarks is what its results give."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import page

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results" / "side-by-side.json"


def test_the_page_is_what_the_results_give() -> None:
    for path, text in page.written(page.PAGE, RESULTS, None).items():
        assert path.read_text() == text, f"run: python bench/page.py --peers bench/results/{RESULTS.name}"


def test_check_tells_a_stale_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "benchmarks.md"
    shutil.copy(page.PAGE, copy)
    command = ["page.py", "--peers", str(RESULTS), "--page", str(copy)]
    monkeypatch.setattr("sys.argv", [*command, "--check"])
    assert page.main() == 1  # the plot is not beside it
    monkeypatch.setattr("sys.argv", command)
    assert page.main() == 0
    monkeypatch.setattr("sys.argv", [*command, "--check"])
    assert page.main() == 0
    copy.write_text(copy.read_text().replace("<!-- side by side ends -->", "", 1))
    with pytest.raises(SystemExit):
        page.main()
