"""How the texts of tokens are put together, one token at a time.

Each assembler is the incremental form of one family of decoders of the tokenizers library, so that
the pieces it gives, joined, are what the library makes of all ids at once. Knows decoders only.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from typing import Any, Protocol, cast

from quire.text.tokenizer import Tokenizer

__all__ = ["Assembler", "make_assembler", "make_byte_assembler"]

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
# How far a generic decoder may look around a token. Characters take up to 4 tokens.
_WINDOW = 8
# Stands among byte values for an id that names no token: it neither is text nor ends a run of bytes.
_NOTHING = -1


class Assembler(Protocol):
    """Takes the ids of visible tokens; gives text as soon as no later token can change it."""

    def prime(self, ids: Sequence[int]) -> None:
        """Take over the state after `ids`, whose text goes nowhere."""

    def push(self, token_id: int) -> str:
        """Take one more token; returns the text that is settled now."""

    def finish(self) -> str:
        """No more tokens: the text of what is still open."""


def make_assembler(tokenizer: Tokenizer) -> Assembler:
    """The assembler for this tokenizer's decoder."""
    return make_byte_assembler(tokenizer) or _Window(tokenizer)


def make_byte_assembler(tokenizer: Tokenizer) -> _ByteLevel | _ByteFallback | None:
    """The assembler, if texts are the bytes of their tokens one after the other."""
    state = tokenizer.decoder_state
    steps = state.get("decoders", [state]) if state.get("type") == "Sequence" else [state]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return _ByteLevel(tokenizer)
    if (fallback := _byte_fallback_steps(steps)) is not None:
        return _ByteFallback(tokenizer, *fallback)
    return None


class _ByteLevel:
    """Byte-level BPE: every token is a string of bytes, and the text is their UTF-8."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes: dict[int, bytes] = {}
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def prime(self, ids: Sequence[int]) -> None:
        # Only an unfinished character can reach into what follows: at most 3 bytes.
        tail = b""
        for token_id in reversed(ids):
            tail = self.token_bytes(token_id) + tail
            if len(tail) >= 3:
                break
        self._decoder.decode(tail[-3:])

    def push(self, token_id: int) -> str:
        token = self._bytes.get(token_id)
        if token is None:
            token = self.token_bytes(token_id)
        return self._decoder.decode(token)

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to the text; nothing for an id that names none."""
        piece = self._tokenizer.piece(token_id) or ""
        try:
            token = bytes(_BYTE_OF_CHAR[char] for char in piece)
        except KeyError:  # an added token, spelt as it is
            token = piece.encode()
        self._bytes[token_id] = token
        return token


class _ByteFallback:
    """Sentencepiece-like BPE: pieces with a sign for the space, and `<0xE4>` tokens for single bytes.

    A run of byte tokens is text only if the whole run is UTF-8, else each byte is U+FFFD: so a run
    is settled when it ends.
    """

    def __init__(self, tokenizer: Tokenizer, replacements: Sequence[tuple[str, str]], strip: int) -> None:
        self._tokenizer = tokenizer
        self._replacements = replacements
        self._strip = strip
        self._pieces: dict[int, str | int] = {}
        self._run = bytearray()

    def prime(self, ids: Sequence[int]) -> None:
        start = len(ids)
        while start and isinstance(self._piece(ids[start - 1]), int):
            start -= 1
        # Spaces are stripped from the text's beginning: see whether it is past already.
        for token_id in ids[:start]:
            if not self._strip:
                break
            self.push(token_id)
        self._run.clear()
        # Whole characters of the run are the prompt's; one that it began is what follows.
        run = bytes(
            piece for piece in map(self._piece, ids[start:]) if isinstance(piece, int) and piece != _NOTHING
        )
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._lead(decoder.decode(run))
        self._run.extend(decoder.getstate()[0])

    def push(self, token_id: int) -> str:
        piece = self._pieces.get(token_id)
        if piece is None:
            piece = self._piece(token_id)
        if isinstance(piece, int):
            if piece != _NOTHING:
                self._run.append(piece)
            return ""
        return self._lead(self._take_run() + piece if self._run else piece)

    def finish(self) -> str:
        return self._lead(self._take_run())

    def token_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text that has begun; nothing for an id that names none."""
        piece = self._piece(token_id)
        if isinstance(piece, str):
            return piece.encode()
        return b"" if piece == _NOTHING else bytes([piece])

    def _piece(self, token_id: int) -> str | int:
        text = self._tokenizer.piece(token_id)
        piece: str | int = _NOTHING
        if text is not None:
            for old, new in self._replacements:
                text = text.replace(old, new)
            match = _BYTE_TOKEN.match(text)
            piece = int(match[1], 16) if match else text
        self._pieces[token_id] = piece
        return piece

    def _take_run(self) -> str:
        run, self._run = self._run, bytearray()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\N{REPLACEMENT CHARACTER}" * len(run)

    def _lead(self, text: str) -> str:
        """Strip up to `strip` spaces from the beginning of the whole text."""
        while self._strip and text:
            if text[0] != " ":
                self._strip = 0
                break
            text = text[1:]
            self._strip -= 1
        return text


class _Window:
    """Any other decoder, through a sliding window of tokens around the border.

    Right for decoders that look no further than `_WINDOW` tokens around a token. The window begins
    with tokens that have text, so that what a decoder does to the first token does not show.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._open: list[int] = []
        self._before = ""  # text of the context alone

    def prime(self, ids: Sequence[int]) -> None:
        self._context = list(ids[-_WINDOW:])
        self._before = self._decode(self._context)

    def push(self, token_id: int) -> str:
        self._open.append(token_id)
        text = self._decode(self._context + self._open)
        settled = text.startswith(self._before) and not text.endswith("\N{REPLACEMENT CHARACTER}")
        if (not settled or len(text) == len(self._before)) and len(self._open) < _WINDOW:
            return ""
        return self._settle(text)

    def finish(self) -> str:
        return self._settle(self._decode(self._context + self._open)) if self._open else ""

    def _settle(self, text: str) -> str:
        new = text[len(self._before) :]
        self.prime(self._context + self._open)
        self._open = []
        return new

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


def _byte_fallback_steps(steps: Sequence[dict[str, Any]]) -> tuple[list[tuple[str, str]], int] | None:
    """Replacements and leading spaces to strip, if these are the steps of a byte-fallback decoder."""
    replacements: list[tuple[str, str]] = []
    rest = list(steps)
    while rest and rest[0].get("type") == "Replace":
        pattern = rest.pop(0)
        old = pattern.get("pattern", {}).get("String")
        if not old:
            return None
        replacements.append((cast("str", old), cast("str", pattern.get("content", ""))))
    if [step.get("type") for step in rest[:2]] != ["ByteFallback", "Fuse"]:
        return None
    match rest[2:]:
        case []:
            return replacements, 0
        case [{"type": "Strip", "content": " ", "start": int(start), "stop": 0}]:
            return replacements, start
    return None


def _byte_chars() -> dict[str, int]:
    """The alphabet of byte-level BPE: printable Latin-1 stands for itself, the rest is moved past 255.

    Source: the GPT-2 tokenizer (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").
    """
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    moved = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(moved)}


_BYTE_OF_CHAR = _byte_chars()
