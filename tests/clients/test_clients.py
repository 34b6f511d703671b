"""Each client runs a script of its own in an environment of its own, against one live server."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import KEY, LiveServer

from .environments import node_modules, python_of

SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(
        "--plugins-routes", "ollama", "--served-model-name", "tiny", "--log-level", "warning"
    ) as live:
        yield live


def run(command: list[str], server: LiveServer, directory: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    environ |= {"QUIRE_URL": server.url, "QUIRE_KEY": KEY, "NO_PROXY": "*", "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=directory, timeout=300)
    assert found.returncode == 0, f"{found.stdout[-3000:]}\n{found.stderr[-6000:]}"
    assert found.stdout.rstrip().endswith("ok"), found.stdout[-2000:]


@pytest.mark.parametrize(
    ("client", "script"),
    [
        ("openai", "openai_client.py"),
        ("openai", "openai_responses.py"),
        ("openai", "openai_structured.py"),
        ("openai-0.28", "openai_028.py"),
        ("langchain-openai", "langchain_client.py"),
        ("langchain-openai", "langchain_structured.py"),
        ("litellm", "litellm_client.py"),
        ("anthropic", "anthropic_client.py"),
        ("ollama", "ollama_client.py"),
        ("ollama", "ollama_format.py"),
        ("lm-eval", "lm_eval_client.py"),
    ],
)
def test_python_client(server: LiveServer, tmp_path: Path, client: str, script: str) -> None:
    run([str(python_of(client)), str(SCRIPTS / script)], server, tmp_path)


def test_node_client(server: LiveServer) -> None:
    home = node_modules("openai")
    if home is None:
        pytest.skip("there is no node here")
    shutil.copy(SCRIPTS / "openai_client.mjs", home)
    run(["node", "openai_client.mjs"], server, home)
