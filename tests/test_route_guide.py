"""The guide's front end runs, and passes the suite by the guide's own test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "how-to" / "write-a-plugin.md"
FILE = re.compile(r"^```python\n# (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory with the files that the section shows."""
    section = PAGE.read_text().partition("## A route\n")[2].partition("\n## ")[0]
    files = dict(FILE.findall(section))
    assert set(files) == {"quire_route_plain/__init__.py", "quire_route_plain/front_end.py", "test_plain.py"}
    for name, code in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    return tmp_path


def run(package: Path, *arguments: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=package, env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_front_end_passes_the_suite(package: Path) -> None:
    told = run(package, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_plain.py")
    passed = re.search(r"(\d+) passed", told)
    assert passed is not None
    assert int(passed[1]) >= 20


def test_the_hook_names_the_front_end(package: Path) -> None:
    script = (
        "import quire_route_plain as plugin\n"
        "(spec,) = plugin.quire_routes()\n"
        "module, _, name = spec.target.partition(':')\n"
        "print(spec.name, callable(getattr(__import__(module, fromlist=[name]), name)))"
    )
    assert run(package, "-c", script) == "plain True\n"
