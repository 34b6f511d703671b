"""Structured output by llguidance: JSON schemas, regular expressions, grammars in Lark's notation."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import GrammarSpec, hookimpl


@hookimpl
def quire_grammars() -> Iterable[GrammarSpec]:
    """One backend, for any device: masks are made on the host."""
    yield GrammarSpec(
        name="llguidance",
        api=1,
        target="quire_grammar_llguidance.backend:LLGuidance",
        priority=40,
        summary="Structured output by llguidance; nothing is compiled ahead, and more of JSON Schema is held",
    )
