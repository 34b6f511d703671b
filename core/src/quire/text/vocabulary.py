"""A tokenizer's vocabulary as bytes, for those who must know what a token would add to a text."""

from __future__ import annotations

from collections.abc import Sequence

from quire.contracts.grammar import Vocabulary
from quire.errors import InvalidRequestError
from quire.text._assembly import make_byte_assembler
from quire.text.tokenizer import Tokenizer

__all__ = ["make_vocabulary"]


def make_vocabulary(tokenizer: Tokenizer, vocab_size: int, end_ids: Sequence[int]) -> Vocabulary:
    """What grammars need to know of a tokenizer; some tenths of a second for a large one.

    Args:
        tokenizer: the model's.
        vocab_size: width of the logits; tokens beyond it cannot be sampled.
        end_ids: the model's end tokens.

    Raises:
        InvalidRequestError: its texts are not the bytes of its tokens, or there is no end token.
    """
    assembler = make_byte_assembler(tokenizer)
    if assembler is None:
        kind = tokenizer.decoder_state.get("type", "none")
        raise InvalidRequestError(
            f"Structured output needs a tokenizer whose tokens are bytes; this model's decoder is {kind!r}.",
            field="structured_outputs",
        )
    ends = tuple(dict.fromkeys(token_id for token_id in end_ids if 0 <= token_id < vocab_size))
    if not ends:
        raise InvalidRequestError(
            "Structured output needs an end token, and this model names none.", field="structured_outputs"
        )
    unseen = tokenizer.special_ids | set(ends)
    size = min(tokenizer.vocab_size, vocab_size)
    return Vocabulary(
        tokens=[b"" if one in unseen else assembler.token_bytes(one) for one in range(size)],
        vocab_size=vocab_size,
        end_ids=ends,
        tokenizer=tokenizer.backend.to_str(),
    )
