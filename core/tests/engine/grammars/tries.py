"""Grammars of the simplest sort for tests: an output is one of some sequences of tokens, and then ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quire.contracts.grammar import Grammar, GrammarInit, GrammarNeed, GrammarSource, Matcher, Vocabulary
from quire.engine.grammars.legal_tokens import pack_ids
from quire.engine.grammars.runner import GrammarRunner

if TYPE_CHECKING:
    from quire.contracts.grammar import Bitmask

END, VOCAB = 1, 128

Words = tuple[tuple[int, ...], ...]


class Trie(Matcher):
    """Follows one of some sequences of tokens."""

    def __init__(self, words: Words, taken: tuple[int, ...] = ()) -> None:
        self.words, self.taken = words, taken

    def legal(self) -> set[int]:
        size = len(self.taken)
        ahead = [word[size:] for word in self.words if word[:size] == self.taken]
        return {rest[0] if rest else END for rest in ahead}

    def accept(self, token_id: int) -> bool:
        if self.is_terminated() or token_id not in self.legal():
            return False
        self.taken += (token_id,)
        return True

    def rollback(self, count: int) -> None:
        self.taken = self.taken[: len(self.taken) - count]

    def fork(self) -> Matcher:
        return Trie(self.words, self.taken)

    def is_terminated(self) -> bool:
        return self.taken[-1:] == (END,)


class Tries(Grammar):
    """A backend whose artefacts name lists of sequences."""

    def __init__(self, init: GrammarInit, words: Mapping[bytes, Words]) -> None:
        super().__init__(init)
        self.words = words

    def compile(self, source: GrammarSource) -> bytes:
        raise NotImplementedError

    def matcher(self, artefact: bytes) -> Matcher:
        return Trie(self.words[artefact])

    def fill(self, matchers: Sequence[Matcher], rows: Sequence[int], bitmask: Bitmask) -> None:
        for matcher, row in zip(matchers, rows, strict=True):
            assert isinstance(matcher, Trie)
            assert not matcher.is_terminated()
            bitmask[row] = pack_ids(matcher.legal(), bitmask.shape[1])


def runner_of(of: Mapping[str, Words]) -> GrammarRunner:
    """A runner whose backend `tries` knows some lists by the bytes of their names."""
    need = GrammarNeed(device="cpu", dtype="float32", vocab_size=VOCAB)
    vocabulary = Vocabulary(tokens=[b"x"] * VOCAB, vocab_size=VOCAB, end_ids=(END,), tokenizer="")
    init = GrammarInit(need=need, vocabulary=vocabulary)
    backend = Tries(init, {name.encode(): words for name, words in of.items()})
    return GrammarRunner(lambda: {"tries": backend}, VOCAB, (END,), rows=1)
