"""llguidance behind Quire's grammar contract.

The artefact is the grammar in llguidance's own notation: it compiles nothing ahead, and derives what it needs
as an output goes on. What that may cost is bounded by its limits, in any process.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from quire.contracts import Grammar, GrammarSource, Matcher
from quire.errors import InvalidRequestError
from quire_grammar_llguidance.schema import WHITESPACE, prepared
from quire_grammar_llguidance.tags import tags_as_grammar

if TYPE_CHECKING:
    from quire.contracts.grammar import Bitmask

__all__ = ["LLGuidance"]


class LLGuidance(Grammar):
    """Checks grammars with llguidance, and follows them with its matchers."""

    def compile(self, source: GrammarSource) -> bytes:
        """See `Grammar`."""
        import llguidance

        grammar = _grammar(source)
        own = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if not own.is_error():
            own.compute_bitmask()  # what a grammar costs shows with its first mask
        if own.is_error():
            raise InvalidRequestError(
                f"llguidance refuses the {source.form}: {_reason(own)}", field=source.form
            )
        return grammar.encode()

    def matcher(self, artefact: bytes) -> Matcher:
        """See `Grammar`."""
        import llguidance

        own = llguidance.LLMatcher(self._tokenizer, artefact.decode(), log_level=0, limits=self._limits)
        if own.is_error():
            raise InvalidRequestError(
                f"llguidance cannot read this artefact: {_reason(own)}", field="structured_outputs"
            )
        return _Matcher(own, frozenset(self.init.vocabulary.end_ids))

    def fill(self, matchers: Sequence[Matcher], rows: Sequence[int], bitmask: Bitmask) -> None:
        """See `Grammar`."""
        mine = [cast(_Matcher, matcher).own for matcher in matchers]
        first, size = bitmask.ctypes.data, bitmask.strides[0]
        for own, row in zip(mine, rows, strict=True):
            own.unsafe_compute_mask_ptr(first + row * size, size)
        for own, row in zip(mine, rows, strict=True):
            if own.is_error():  # a limit was reached: the output cannot go on
                bitmask[row] = 0
        # An end token that the tokenizer does not call special is text to llguidance; here it is the end.
        for word, bit in self._ends:
            for at in np.flatnonzero(bitmask[rows, word] & bit).tolist():
                if not mine[at].is_accepting():
                    bitmask[rows[at], word] &= ~bit

    @cached_property
    def _ends(self) -> list[tuple[int, np.int32]]:
        """Word and bit of every end token."""
        places = [divmod(one, 32) for one in self.init.vocabulary.end_ids]
        return [(word, np.uint32(1 << bit).view(np.int32)) for word, bit in places]

    @cached_property
    def _tokenizer(self) -> Any:
        import llguidance

        vocabulary = self.init.vocabulary
        return llguidance.LLTokenizer(
            vocabulary.tokenizer, n_vocab=vocabulary.vocab_size, eos_token=list(vocabulary.end_ids)
        )

    @cached_property
    def _limits(self) -> Any:
        import llguidance

        # Errors without the parser's state: they may hold what other requests wrote.
        return llguidance.LLParserLimits(verbose_errors=False)


class _Matcher(Matcher):
    """One of llguidance's matchers, which an illegal token would break for good."""

    __slots__ = ("ended", "ends", "own")

    def __init__(self, own: Any, ends: frozenset[int], ended: bool = False) -> None:
        self.own = own
        self.ends = ends
        self.ended = ended

    def accept(self, token_id: int) -> bool:
        if self.ended:
            return False
        if token_id in self.ends:
            self.ended = bool(self.own.is_accepting())
            return self.ended
        return bool(self.own.try_consume_tokens([token_id]) == 1)

    def rollback(self, count: int) -> None:
        if not count:
            return
        count -= self.ended  # llguidance never hears of the end
        self.ended = False
        if count:
            self.own.rollback(count)

    def fork(self) -> Matcher:
        return _Matcher(self.own.deep_copy(), self.ends, self.ended)

    def is_terminated(self) -> bool:
        return self.ended


def _grammar(source: GrammarSource) -> str:
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark

    match source.form:
        case "json_schema" | "json_object":
            options: dict[str, Any] = {"coerce_one_of": True}
            if source.compact:
                options["whitespace_flexible"] = False
            else:
                options["whitespace_pattern"] = source.whitespace or WHITESPACE
            schema = prepared(source.text or '{"type": "object"}')
            return str(LLMatcher.grammar_from_json_schema(schema, overrides=cast(Any, options)))
        case "regex":
            return str(LLMatcher.grammar_from_regex(source.text))
        case "choice":
            literals = " | ".join(json.dumps(one, ensure_ascii=False) for one in json.loads(source.text))
            return str(LLMatcher.grammar_from_lark(f"start: {literals}"))
        case "grammar":
            try:
                return str(LLMatcher.grammar_from_lark(any_to_lark(source.text)))
            except Exception as error:  # its converter raises what it stumbles over
                raise InvalidRequestError(
                    f"llguidance cannot read the grammar: {str(error)[:500]}", field="grammar"
                ) from error
        case "structural_tag":
            return tags_as_grammar(source.text)


def _reason(own: Any) -> str:
    """What llguidance says, without the source that it repeats."""
    first, *others = str(own.get_error()).strip().splitlines() or ["no reason given"]
    if first.endswith(":"):
        first += "".join(f" {line.removeprefix('error: ')}" for line in others if line.startswith("error: "))
    return first[:500]
