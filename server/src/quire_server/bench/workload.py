"""What is asked: prompts of ragged lengths, shared prefixes, output lengths; the same for the same seed.

Knows lengths, token ids and words. Knows no server: it cannot tell how a server cuts words into tokens, so
with texts, lengths are words, and the server's own count is what the figures use.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from quire.errors import ConfigError

Form = Literal["ids", "text"]

_TEXT = (
    "a about after all also and any are as at back be because but by can come could day do even find first "
    "for from get give go good have he her here him his how I if in into it its just know like look make "
    "man many me more my new no not now of on one only or other our out people say see she so some take "
    "tell than that the their them then there these they thing think this time to two up use very want "
    "way we well what when which who will with woman work world would year yes you your"
)
WORDS = tuple(_TEXT.split())
"""Common words of which texts are made: most tokenizers have a token for each."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """A range of lengths, both ends included; drawn uniformly."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ConfigError(f"The lengths {self} make no range: write N or LOW:HIGH, each at least 1.")

    @classmethod
    def parse(cls, text: str) -> Lengths:
        """`128`, or `32:256`.

        Raises:
            ConfigError: it is neither.
        """
        low, _, high = text.partition(":")
        try:
            return cls(int(low), int(high or low))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{text!r} is no length: write N or LOW:HIGH.") from None

    def draw(self, source: random.Random) -> int:
        """One length."""
        return source.randint(self.low, self.high)

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        index: its number in the workload.
        prompt: token ids, or a text.
        input_len: length of the prompt, in tokens or words.
        output_len: tokens to generate.
    """

    index: int
    prompt: list[int] | str
    input_len: int
    output_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A sequence of requests without an end; each depends on the seed and its number alone.

    Attributes:
        form: what prompts are.
        input_len: length of a prompt behind its prefix, in tokens or words.
        output_len: tokens to generate.
        prefix_length: length of the shared prefix, in tokens or words; 0 for none.
        num_prefixes: how many prefixes there are; each request has one of them.
        token_ids: range that ids are drawn from.
        seed: another seed gives other prompts.
    """

    form: Form
    input_len: Lengths
    output_len: Lengths
    token_ids: Lengths
    prefix_length: int = 0
    num_prefixes: int = 1
    seed: int = 0

    def request(self, index: int) -> Request:
        """The request of that number. Negative numbers give requests of their own (for warming up)."""
        draw = random.Random(f"{self.seed}/{index}")
        own, output_len = self.input_len.draw(draw), self.output_len.draw(draw)
        prefix: list[int] = []
        if self.prefix_length:
            which = draw.randrange(self.num_prefixes)
            prefix = self._items(random.Random(f"{self.seed}/prefix {which}"), self.prefix_length)
        items = prefix + self._items(draw, own)
        prompt = items if self.form == "ids" else " ".join(WORDS[one] for one in items)
        return Request(index, prompt, len(items), output_len)

    def _items(self, draw: random.Random, count: int) -> list[int]:
        if self.form == "text":
            return draw.choices(range(len(WORDS)), k=count)
        return draw.choices(range(self.token_ids.low, self.token_ids.high + 1), k=count)
