"""The how-to pages name what there is, and their examples work."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import Result

from quire_server.cli import bench_serve, run_batch

if TYPE_CHECKING:
    from server.tests.load.conftest import Served

PAGES = Path(__file__).resolve().parents[3] / "docs" / "how-to"


@pytest.mark.parametrize(
    ("page", "command"),
    [("benchmark-a-server.md", bench_serve.command), ("run-batch.md", run_batch.command)],
)
def test_flags_of_the_pages_exist(page: str, command: click.Command) -> None:
    text = re.sub(r"^\$ quire serve .*$", "", (PAGES / page).read_text(), flags=re.MULTILINE)
    known = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert len(named) > 1
    assert named <= known


def test_the_batch_example_works(served: Served, run: Callable[..., Result], tmp_path: Path) -> None:
    page = (PAGES / "run-batch.md").read_text()
    found = re.search(r"```json title=\"in.jsonl\"\n(.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / "in.jsonl").write_text(found[1])
    files = ("-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"))
    result = run("run-batch", *files, "--url", served.url)
    assert result.output.startswith("2 of 2 lines done, 0 failed")
    assert [body["model"] for body in served.bodies] == ["tiny", "tiny"]
