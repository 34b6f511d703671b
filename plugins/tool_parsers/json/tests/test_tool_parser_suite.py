"""The three forms against the contract's suite."""

from __future__ import annotations

import pytest

from quire.contracts import ToolParser
from quire.testing.tool_parser import ToolParserSuite
from quire_tool_parser_json.hermes import HermesParser
from quire_tool_parser_json.llama3 import Llama3Parser
from quire_tool_parser_json.mistral import MistralParser


class TestHermes(ToolParserSuite):
    @pytest.fixture
    def parser_class(self) -> type[ToolParser]:
        return HermesParser


class TestLlama3(ToolParserSuite):
    @pytest.fixture
    def parser_class(self) -> type[ToolParser]:
        return Llama3Parser


class TestMistral(ToolParserSuite):
    @pytest.fixture
    def parser_class(self) -> type[ToolParser]:
        return MistralParser
