"""Tools in each dialect of the server, against what all of them owe."""

from __future__ import annotations

import pytest

from quire_server.anthropic.front_end import front_end as anthropic
from quire_server.openai.front_end import front_end as openai
from quire_server.responses.front_end import front_end as responses
from quire_server.testing import Target, ToolSuite
from quire_server.testing.tool_dialects import ChatTools, MessagesTools, ResponsesTools


class TestChats(ToolSuite):
    dialect = ChatTools()

    @pytest.fixture
    def target(self) -> Target:
        return openai


class TestResponses(ToolSuite):
    dialect = ResponsesTools()

    @pytest.fixture
    def target(self) -> Target:
        return responses


class TestMessages(ToolSuite):
    dialect = MessagesTools()

    @pytest.fixture
    def target(self) -> Target:
        return anthropic
