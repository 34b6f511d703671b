"""Prompt lookup passes the contract suite, by the subclass any speculator would use."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from quire.contracts import Speculator
from quire.testing.speculator import SpeculatorSuite
from quire_speculator_ngram.options import NgramOptions
from quire_speculator_ngram.speculator import NgramSpeculator


class TestNgram(SpeculatorSuite):
    @pytest.fixture
    def speculator_class(self) -> type[Speculator]:
        return NgramSpeculator


class TestNgramOfOtherLengths(TestNgram):
    @pytest.fixture(params=[(1, 1), (1, 3), (5, 32)])
    def options(self, request: pytest.FixtureRequest) -> BaseModel:
        shortest, longest = request.param
        return NgramOptions(prompt_lookup_min=shortest, prompt_lookup_max=longest)
