"""Real clients call tools. The bundled model was not trained for it, so an engine plays a model's part."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_route_ollama.front_end import front_end as ollama
from quire_server.anthropic.front_end import front_end as anthropic
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.openai.front_end import front_end as openai
from quire_server.responses.front_end import front_end as responses
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer

from .environments import python_of

SCRIPTS = Path(__file__).parent / "scripts"
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    engine = FakeEngine(tool_parser="hermes", reasoning_parser="think")
    engine.answer = lambda prompt: "It is warm." if "tool: " in prompt else f"<think>A city.</think>{CALL}"
    service = Service(engine, ServeConfig(), ServerMetrics())
    ends = [front_end(service, None) for front_end in (openai, responses, anthropic, ollama)]
    with LiveServer(build_app(service, ends)) as live:
        yield live


@pytest.mark.parametrize(
    ("client", "script"),
    [
        ("openai", "openai_tools.py"),
        ("anthropic", "anthropic_tools.py"),
        ("ollama", "ollama_tools.py"),
        ("langchain-openai", "langchain_tools.py"),
    ],
)
def test_a_client_calls_tools(server: LiveServer, tmp_path: Path, client: str, script: str) -> None:
    environ = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    environ |= {"QUIRE_URL": server.url, "QUIRE_KEY": "none", "NO_PROXY": "*"}
    command = [str(python_of(client)), str(SCRIPTS / script)]
    found = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, timeout=120)
    assert found.returncode == 0, f"{found.stdout[-3000:]}\n{found.stderr[-6000:]}"
    assert found.stdout.rstrip().endswith("ok"), found.stdout[-2000:]
