"""What the pages on the APIs show is run against a live server: curl commands and client code."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer

from .environments import ROOT, python_of

PAGES = {
    "tutorials/serve-a-model.md": "openai",
    "how-to/openai-api.md": "openai",
    "how-to/responses-api.md": "openai",
    "how-to/anthropic-api.md": "anthropic",
    "how-to/ollama-api.md": "ollama",
}
HERE = "http://localhost:8000"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer("--plugins-routes", "ollama", "--log-level", "warning", key=None) as live:
        yield live


def blocks(page: str, language: str) -> list[str]:
    """Fenced code of a page."""
    text = (ROOT / "docs" / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """Shell commands of a page that ask a server."""
    found = []
    for block in blocks(page, "console"):
        joined = block.replace("\\\n", " ")
        found += [line[2:] for line in joined.splitlines() if line.startswith("$ curl ")]
    return found


@pytest.mark.parametrize("page", PAGES)
def test_curl_commands(server: LiveServer, page: str) -> None:
    found = commands(page)
    assert found, f"{page} shows no curl command"
    for command in found:
        words = shlex.split(command.replace(HERE, server.url))
        done = subprocess.run(
            [*words, "--silent", "--show-error", "--fail-with-body"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES)
def test_client_code(server: LiveServer, page: str, tmp_path: Path) -> None:
    found = blocks(page, "python")
    assert found, f"{page} shows no client code"
    environ = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    # One program a page: later blocks use what earlier ones define.
    program = "\n".join(found).replace(HERE, server.url)
    done = subprocess.run(
        [str(python_of(PAGES[page])), "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env=environ,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-4000:]
