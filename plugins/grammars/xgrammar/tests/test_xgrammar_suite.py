"""XGrammar is held to the grammar contract."""

from __future__ import annotations

import pytest

from quire.contracts import Grammar
from quire.testing.grammar import GrammarSuite
from quire_grammar_xgrammar.backend import XGrammar


class TestXGrammar(GrammarSuite):
    @pytest.fixture
    def grammar_class(self) -> type[Grammar]:
        return XGrammar
