"""Structured output by XGrammar: JSON schemas, regular expressions, grammars, structural tags."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import GrammarSpec, hookimpl


@hookimpl
def quire_grammars() -> Iterable[GrammarSpec]:
    """One backend, for any device: masks are made on the host."""
    yield GrammarSpec(
        name="xgrammar",
        api=1,
        target="quire_grammar_xgrammar.backend:XGrammar",
        priority=50,
        summary="Structured output by XGrammar; masks in microseconds",
    )
