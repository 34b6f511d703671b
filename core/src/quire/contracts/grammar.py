"""The grammar contract: from what an output must look like to the tokens that are legal next.

A grammar is compiled in one process (a worker that can be stopped) and followed in another (the engine's):
between them goes an artefact, bytes that mean something to the plugin alone. Knows token ids and bytes; knows
no request and no tensor: masks are numpy arrays on the host, and the worker brings them to the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from quire.contracts.base import Need, PluginSpec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydantic import BaseModel

    Bitmask: TypeAlias = NDArray[np.int32]

GrammarForm: TypeAlias = Literal["json_schema", "json_object", "regex", "choice", "grammar", "structural_tag"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSpec(PluginSpec):
    """Description of a grammar backend; `target` is a `Grammar` subclass.

    The target is imported whenever an engine is planned: what it is built on belongs inside its functions.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarNeed(Need):
    """What the engine asks of a grammar backend.

    Attributes:
        vocab_size: width of the logits.
    """

    vocab_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarSource:
    """What an output must look like. Plain data: it travels, and equal ones are compiled once.

    Attributes:
        form: what `text` is.
        text: a JSON Schema as JSON ("" for `json_object`, which is any JSON object), a regular
            expression that the whole output matches, a JSON array of the strings to choose from, a
            context-free grammar (in EBNF as llama.cpp writes it, or in Lark's notation), or structural tags
            as JSON.
        compact: JSON has no whitespace between its tokens.
        whitespace: regular expression of the whitespace allowed there, instead of the backend's own bounded
            one; None for that.
    """

    form: GrammarForm
    text: str
    compact: bool = False
    whitespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a grammar backend knows of a tokenizer. Plain data: it travels.

    Attributes:
        tokens: the bytes that each token id adds to a text; empty for ids that no grammar may use: special
            tokens, and ids that name no token.
        vocab_size: width of the logits; at least `len(tokens)`. Ids from there on are never legal.
        end_ids: ids that end an output; at least one, none of them twice.
        tokenizer: the tokenizer as the `tokenizers` library writes it in JSON, for backends that want to
            spell what is forced as the tokenizer would.
    """

    tokens: list[bytes]
    vocab_size: int
    end_ids: tuple[int, ...]
    tokenizer: str

    @property
    def mask_width(self) -> int:
        """32-bit words in a row of a bitmask: bit i % 32 of word i // 32 is token i."""
        return (self.vocab_size + 31) // 32


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarInit:
    """What a backend is constructed with, once per process.

    Attributes:
        need: the need it did not reject.
        vocabulary: the model's.
        options: its validated options model, or None.
    """

    need: GrammarNeed
    vocabulary: Vocabulary
    options: BaseModel | None = None


class Matcher(ABC):
    """One output on its way through a grammar.

    It is at an end once an end token was accepted; then nothing more is.
    """

    @abstractmethod
    def accept(self, token_id: int) -> bool:
        """Go on by one token; False, and nothing has changed, if it is not legal here."""

    @abstractmethod
    def rollback(self, count: int) -> None:
        """Take back the last `count` accepted tokens, an end token too. Of none, nothing changes."""

    @abstractmethod
    def fork(self) -> Matcher:
        """Another output that has come as far as this one."""

    @abstractmethod
    def is_terminated(self) -> bool:
        """Whether an end token was accepted."""


class Grammar(ABC):
    """Compiles grammars and follows outputs through them.

    Must hold:
        * What is legal depends on the artefact and the accepted tokens alone: the same in any batch and any
          process.
        * An output whose tokens were all legal, and that came to an end token, is what the source asks for.
          What a backend cannot hold it refuses in `compile`, naming the construct: it ignores nothing.
        * From every state that legal tokens lead to, some token is legal; once the source is satisfied, end
          tokens are.
        * A backend bounds the whitespace of JSON, which a model could otherwise write for ever.

    `compile` is called in a process that is stopped when it takes too long; all else in the engine's: `fill`
    and its matchers by one thread, beside which another may call `matcher`.
    """

    @classmethod
    def reject(cls, need: GrammarNeed) -> str | None:
        """The reason this backend cannot serve `need`, or None."""
        return None

    def __init__(self, init: GrammarInit) -> None:
        self.init = init

    @abstractmethod
    def compile(self, source: GrammarSource) -> bytes:
        """An artefact of the source.

        Raises:
            InvalidRequestError: the source is malformed, or uses what this backend cannot do; names it.
        """

    @abstractmethod
    def matcher(self, artefact: bytes) -> Matcher:
        """An output that has not begun.

        Raises:
            InvalidRequestError: another version of the backend made the artefact.
        """

    @abstractmethod
    def fill(self, matchers: Sequence[Matcher], rows: Sequence[int], bitmask: Bitmask) -> None:
        """Write which tokens are legal next: matcher i into row `rows[i]`.

        Args:
            matchers: of this backend; none of them is terminated.
            rows: as many row numbers, each once.
            bitmask: `[R, mask_width]`, contiguous; other rows are left as they are. Bits of ids that are not
                below `vocab_size` are 0.
        """
