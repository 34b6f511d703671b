"""What the grammar suite works with: a small vocabulary, and random outputs through a grammar."""

from __future__ import annotations

import json
import random
from functools import cache
from typing import Any

import numpy as np

from quire.contracts import Grammar, GrammarInit, GrammarNeed, Matcher, Vocabulary
from quire.text.tokenizer import Tokenizer
from quire.text.vocabulary import make_vocabulary

__all__ = ["END", "PAD", "WIDTH", "GrammarBench", "legal_ids", "small_tokenizer"]

WIDTH = 1000
"""Of the logits: no multiple of 32, and wider than the vocabulary."""

PAD, END, OTHER_END = 0, 1, 2
_TEXT = [
    '{"name": "Alice", "age": 30, "tags": ["a", "b"], "ok": true, "none": null, "x": -1.5e10}\n',
    "the quick brown fox jumps over the lazy dog, and there were many of them. 0123456789\n",
    "def main():\n    return {'größe': 1, '日本': 2}\n",
]


@cache
def small_tokenizer() -> Tokenizer:
    """A byte-level tokenizer of some hundreds of tokens, three of them special."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|pad|>", "<|end|>", "<|stop|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_TEXT * 4, trainer)
    hf: Any = PreTrainedTokenizerFast
    return Tokenizer(hf(tokenizer_object=backend, eos_token="<|end|>"))


def legal_ids(row: Any) -> list[int]:
    """The token ids of a row of a bitmask."""
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    return [int(one) for one in np.flatnonzero(bits)]


class GrammarBench:
    """A backend over the small vocabulary, and what tests do with it."""

    def __init__(self, kind: type[Grammar], options: Any = None) -> None:
        self.vocabulary: Vocabulary = make_vocabulary(small_tokenizer(), WIDTH, (END, OTHER_END))
        need = GrammarNeed(device="cpu", dtype="float32", vocab_size=WIDTH)
        self.init = GrammarInit(need=need, vocabulary=self.vocabulary, options=options)
        self.kind = kind
        self.grammar = kind(self.init)

    def mask(self, matcher: Matcher) -> Any:
        """The row of one matcher."""
        bitmask = np.full((1, self.vocabulary.mask_width), -1, dtype=np.int32)
        self.grammar.fill([matcher], [0], bitmask)
        return bitmask[0]

    def legal(self, matcher: Matcher) -> list[int]:
        """The token ids that are legal next."""
        return legal_ids(self.mask(matcher))

    def spell(self, text: str) -> list[int]:
        """Some token ids of a text."""
        return small_tokenizer().encode(text, add_special_tokens=False)

    def takes(self, artefact: bytes, text: str) -> bool:
        """Whether the grammar lets a whole text through, byte by byte, and then an end token."""
        matcher = self.grammar.matcher(artefact)
        single = {
            token: one for one, token in reversed(list(enumerate(self.vocabulary.tokens))) if len(token) == 1
        }
        return all(matcher.accept(single[bytes([byte])]) for byte in text.encode()) and matcher.accept(END)

    def write(self, artefact: bytes, seed: int, most: int = 400) -> str | None:
        """A random output, of legal tokens only; None if it came to no end within `most` tokens."""
        rng, matcher, written = random.Random(seed), self.grammar.matcher(artefact), bytearray()
        for _ in range(most):
            legal = self.legal(matcher)
            assert legal, f"nothing is legal after {bytes(written)!r}"
            token = self._pick(legal, rng)
            assert matcher.accept(token), f"{token} is legal after {bytes(written)!r}, and refused"
            if token in self.vocabulary.end_ids:
                return written.decode()
            written += self.vocabulary.tokens[token]
        return None

    def _pick(self, legal: list[int], rng: random.Random) -> int:
        ends = [one for one in legal if one in self.vocabulary.end_ids]
        if ends and rng.random() < 0.5:
            return rng.choice(ends)
        closing = [
            one for one in legal if self.vocabulary.tokens[one : one + 1] in ([b'"'], [b"]"], [b"}"], [b","])
        ]
        if closing and rng.random() < 0.3:
            return rng.choice(closing)
        return rng.choice(legal)


def dumped(schema: Any) -> str:
    """A schema as a request's source has it."""
    return json.dumps(schema, ensure_ascii=False)
