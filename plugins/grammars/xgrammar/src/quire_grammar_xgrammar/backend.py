"""XGrammar behind Quire's grammar contract.

The artefact is XGrammar's own serialised grammar, compiled for the vocabulary: to follow it costs
microseconds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from quire.contracts import Grammar, GrammarSource, Matcher
from quire.errors import InvalidRequestError
from quire_grammar_xgrammar.schema import prepared
from quire_grammar_xgrammar.tags import tags_as_format
from quire_grammar_xgrammar.utf8 import SecondBytes

if TYPE_CHECKING:
    from quire.contracts.grammar import Bitmask

__all__ = ["XGrammar"]

_MAX_WHITESPACE = 8
"""Characters of whitespace between two tokens of JSON: enough to indent a little, and an end to it."""


_COMPACT_OBJECT = r"""
root ::= "{" (pair ("," pair)*)? "}"
pair ::= string ":" value
value ::= root | "[" (value ("," value)*)? "]" | string | number | "true" | "false" | "null"
string ::= "\"" ([^"\\\x00-\x1f] | "\\" (["\\/bfnrt] | "u" hex hex hex hex))* "\""
hex ::= [0-9a-fA-F]
number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)?
"""
"""Any JSON object (RFC 8259) without whitespace: XGrammar's own has some, whatever one asks for."""


class XGrammar(Grammar):
    """Compiles with XGrammar's compiler; one thread, no cache of its own."""

    def compile(self, source: GrammarSource) -> bytes:
        """See `Grammar`."""
        if source.whitespace is not None:
            raise InvalidRequestError(
                "xgrammar takes no whitespace_pattern: leave it out, or use disable_any_whitespace.",
                field="whitespace_pattern",
            )
        try:
            return str(self._compile(source).serialize_json()).encode()
        except RuntimeError as error:
            raise InvalidRequestError(
                f"xgrammar refuses the {source.form}: {_reason(error)}", field=source.form
            ) from error

    def matcher(self, artefact: bytes) -> Matcher:
        """See `Grammar`."""
        import xgrammar

        try:
            compiled = xgrammar.CompiledGrammar.deserialize_json(artefact.decode(), self._tokenizer)
        except (RuntimeError, UnicodeDecodeError) as error:
            raise InvalidRequestError(
                f"xgrammar cannot read this artefact: {_reason(error)}", field="structured_outputs"
            ) from error
        return _Matcher(xgrammar.GrammarMatcher(compiled), self._second_bytes, self._ends)

    def fill(self, matchers: Sequence[Matcher], rows: Sequence[int], bitmask: Bitmask) -> None:
        """See `Grammar`."""
        mine = cast("Sequence[_Matcher]", matchers)
        if len(mine) == 1:  # the batched call costs more
            mine[0].own.fill_next_token_bitmask(bitmask, rows[0])
        elif mine:
            self._batched.batch_fill_next_token_bitmask([one.own for one in mine], bitmask, list(rows))
        for matcher, row in zip(mine, rows, strict=True):
            if lead := matcher.lead:
                bitmask[row] &= self._second_bytes.after(lead)
        if over := self._last_word:  # it leaves the bits beyond the logits set
            bitmask[list(rows), -1] &= over

    @cached_property
    def _last_word(self) -> int:
        """Bits of a row's last word that are tokens; 0 if all are."""
        return (1 << self.init.vocabulary.vocab_size % 32) - 1

    @cached_property
    def _ends(self) -> frozenset[int]:
        return frozenset(self.init.vocabulary.end_ids)

    @cached_property
    def _second_bytes(self) -> SecondBytes:
        vocabulary = self.init.vocabulary
        return SecondBytes(vocabulary.tokens, vocabulary.mask_width)

    @cached_property
    def _tokenizer(self) -> Any:
        import xgrammar

        vocabulary = self.init.vocabulary
        return xgrammar.TokenizerInfo(
            vocabulary.tokens,
            xgrammar.VocabType.RAW,
            vocab_size=vocabulary.vocab_size,
            stop_token_ids=list(vocabulary.end_ids),
        )

    @cached_property
    def _compiler(self) -> Any:
        import xgrammar

        return xgrammar.GrammarCompiler(self._tokenizer, max_threads=1, cache_enabled=False)

    @cached_property
    def _batched(self) -> Any:
        import xgrammar

        # One thread: a batch's masks take some ten microseconds, and other threads compute.
        return xgrammar.BatchGrammarMatcher(max_threads=1)

    def _compile(self, source: GrammarSource) -> Any:
        compiler = self._compiler
        match source.form:
            case "json_object" if source.compact:
                return compiler.compile_grammar(_COMPACT_OBJECT)
            case "json_schema" | "json_object":
                return compiler.compile_json_schema(
                    prepared(source.text or '{"type":"object"}'),
                    any_whitespace=not source.compact,
                    separators=(",", ":") if source.compact else None,
                    max_whitespace_cnt=None if source.compact else _MAX_WHITESPACE,
                )
            case "regex":
                return compiler.compile_regex(source.text)
            case "choice":
                literals = " | ".join(_literal(one) for one in json.loads(source.text))
                return compiler.compile_grammar(f"root ::= {literals}")
            case "grammar":
                if "::=" in source.text:
                    return compiler.compile_grammar(source.text)
                return compiler.compile_lark(source.text)
            case "structural_tag":
                return compiler.compile_structural_tag(tags_as_format(source.text))


class _Matcher(Matcher):
    """One of XGrammar's matchers, and the lead bytes that its tokens ended with."""

    __slots__ = ("_ended", "_ends", "_leads", "_second_bytes", "lead", "own")

    def __init__(
        self,
        own: Any,
        second_bytes: SecondBytes,
        ends: frozenset[int],
        leads: Sequence[int] = (0,),
        ended: bool = False,
    ) -> None:
        self.own = own
        self._second_bytes = second_bytes
        self._ends = ends
        self._leads = list(leads)
        self._ended = ended
        # The first byte of a character that has begun, if it says something about the next; else 0.
        self.lead = self._leads[-1]

    def accept(self, token_id: int) -> bool:
        of_token = self._second_bytes.lead
        if self._ended or not 0 <= token_id < len(of_token):
            return False
        if self.lead and not self._second_bytes.allows(self.lead, token_id):
            return False
        if not self.own.accept_token(token_id):
            return False
        self.lead = lead = of_token[token_id]
        self._leads.append(lead)
        self._ended = token_id in self._ends
        return True

    def rollback(self, count: int) -> None:
        if count:
            self.own.rollback(count)
            del self._leads[-count:]
            self.lead = self._leads[-1]
            self._ended = False

    def fork(self) -> Matcher:
        return _Matcher(self.own.fork(), self._second_bytes, self._ends, self._leads, self._ended)

    def is_terminated(self) -> bool:
        return self._ended


def _literal(text: str) -> str:
    """A string in EBNF: what is not printable ASCII, by its number."""
    escaped = "".join(
        char if char.isascii() and char.isprintable() and char not in '"\\' else f"\\U{ord(char):08x}"
        for char in text
    )
    return f'"{escaped}"'


def _reason(error: Exception) -> str:
    """What XGrammar says, without the place in its source and what else it logs."""
    text = re.sub(r"^\[[^\]]*\] \S+?:\d+: ", "", str(error)).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__
