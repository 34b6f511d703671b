"""The parsers against the contract's suite."""

from __future__ import annotations

import pytest

from quire.contracts import ReasoningParser, ReasoningParserInit
from quire.testing.reasoning_parser import ReasoningParserSuite
from quire_reasoning_parser_think.options import ThinkOptions
from quire_reasoning_parser_think.parser import OpenThinkParser, ThinkParser


class TestThink(ReasoningParserSuite):
    @pytest.fixture
    def parser_class(self) -> type[ReasoningParser]:
        return ThinkParser


class TestOpenThink(ReasoningParserSuite):
    @pytest.fixture
    def parser_class(self) -> type[ReasoningParser]:
        return OpenThinkParser


class TestOtherTags(ReasoningParserSuite):
    opening = "[THINK]"

    @pytest.fixture
    def parser_class(self) -> type[ReasoningParser]:
        return ThinkParser

    @pytest.fixture
    def init(self) -> ReasoningParserInit:
        return ReasoningParserInit(options=ThinkOptions(opening="[THINK]", closing="[/THINK]"))
