"""Tools in Ollama's chats, against what every dialect owes."""

from __future__ import annotations

import pytest

from quire_route_ollama.front_end import front_end
from quire_route_ollama.testing import OllamaTools
from quire_server.testing import Target, ToolSuite


class TestOllama(ToolSuite):
    dialect = OllamaTools()

    @pytest.fixture
    def target(self) -> Target:
        return front_end
