"""The code of the pages on tools and on thinking runs, against a server whose engine plays a model's part."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from quire.contracts import Content, Reasoning, ReasoningParserInit
from quire.testing.events import join_events
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.openai.front_end import front_end
from quire_server.service import Service
from quire_server.testing import FakeEngine, LiveServer

PAGES = Path(__file__).resolve().parents[2] / "docs" / "how-to"


def model(prompt: str) -> str:
    """What a model would write."""
    if "prime" in prompt:
        return "<think>\n7 times 13 is 91.\n</think>\n\nNo."
    if "tool: " in prompt:
        return "It is sunny."
    return '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def blocks(page: str) -> list[str]:
    """The page's Python."""
    return re.findall(r"^```python\n(.*?)^```", (PAGES / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("tool-calling.md", ["It is sunny.", "{'city': 'Rome'}"]),
        ("reasoning.md", ["7 times 13 is 91.", "No."]),
    ],
)
def test_the_code_of_the_pages_runs(page: str, printed: list[str]) -> None:
    engine = FakeEngine()
    engine.use_parsers(tool_parser="hermes", reasoning_parser="think")
    engine.answer = model
    service = Service(engine, ServeConfig(), ServerMetrics())
    with LiveServer(build_app(service, [front_end(service, None)])) as server:
        program = "\n".join(one for one in blocks(page) if "LLM(" not in one).replace(
            "http://localhost:8000", server.url
        )
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == printed


def test_the_parser_of_the_guide_works() -> None:
    (code,) = [one for one in blocks("write-a-plugin.md") if "DashParser" in one]
    names: dict[str, type] = {}
    exec(code, names)
    text = "Hm, a city.\n--\n---\nRome.\n---\n"
    for pieces in ([text], list(text)):
        parser = names["DashParser"](ReasoningParserInit())
        events = [event for piece in pieces for event in parser.feed(piece)]
        expected = [Reasoning("Hm, a city.\n--"), Content("Rome.\n---\n")]
        assert join_events([*events, *parser.finish()]) == expected
