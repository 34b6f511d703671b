"""The joined stream equals the decoding of the whole (T40), for every family of decoders."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.text import IncrementalDetokenizer, Tokenizer

TokenizerOf = Callable[[str], Tokenizer]

FAMILIES = ["byte_level", "byte_fallback", "word_piece", "metaspace"]
EXACT = ["byte_level", "byte_fallback"]
TEXT = "Hello, world! good  good evening. héllo 你好世界 🎉🎉"


def stream(tokenizer: Tokenizer, ids: list[int], prompt: list[int], skip: bool = True) -> str:
    detokenizer = IncrementalDetokenizer(tokenizer, prompt, skip_special_tokens=skip)
    parts = [detokenizer.append([id_]) for id_ in ids]
    parts.append(detokenizer.finish())
    assert detokenizer.text == "".join(parts)
    return detokenizer.text


def num_bytes(tokenizer: Tokenizer, ids: list[int]) -> int:
    """How many bytes of text `ids` stand for, in the exact families."""
    pieces = [tokenizer.piece(id_) or "" for id_ in ids]
    if tokenizer.decoder_state["type"] == "ByteLevel":
        return sum(map(len, pieces))
    return sum(1 if piece.startswith("<0x") else len(piece.replace("▁", " ").encode()) for piece in pieces)


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None)  # the first example loads transformers
@given(data=st.data())
def test_random_ids_without_a_prompt(tokenizer_of: TokenizerOf, family: str, data: st.DataObject) -> None:
    """Any ids, with ids outside the vocabulary and special tokens among them."""
    tokenizer = tokenizer_of(family)
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 3), max_size=24))
    skip = data.draw(st.booleans())
    assert stream(tokenizer, ids, [], skip) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("family", EXACT)
@settings(deadline=None)
@given(text=st.text(max_size=40), data=st.data())
def test_text_after_a_prompt(tokenizer_of: TokenizerOf, family: str, text: str, data: st.DataObject) -> None:
    """Cut between any two tokens whose prompt is whole characters: the rest is what comes out."""
    tokenizer = tokenizer_of(family)
    ids = tokenizer.encode(text)
    cut = data.draw(st.integers(0, len(ids)))
    skip = data.draw(st.booleans())
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    before = tokenizer.decode(ids[:cut], skip_special_tokens=skip)
    out = stream(tokenizer, ids[cut:], ids[:cut], skip)
    if whole.startswith(before):
        assert before + out == whole
    else:  # the cut goes through a character, which then comes whole with the output, but no other does
        assert whole.endswith(out)
        assert len(out[1:].encode()) <= num_bytes(tokenizer, ids[cut:]) < len(out.encode())


@settings(deadline=None)
@given(raw=st.binary(max_size=24), data=st.data())
def test_any_bytes_in_any_chunks(tokenizer_of: TokenizerOf, raw: bytes, data: st.DataObject) -> None:
    """Byte tokens of both families: valid, cut and invalid UTF-8, appended in chunks of any size."""
    level, fallback = tokenizer_of("byte_level"), tokenizer_of("byte_fallback")
    plain = {byte: fallback.token_id(f"<0x{byte:02X}>") for byte in range(256)}
    spelling = {byte: level.encode(chr(byte), add_special_tokens=False) for byte in range(128)}
    chars = sorted(range(len(level)), key=lambda id_: len(level.piece(id_) or ""))[:256]
    for tokenizer, ids in (
        (fallback, [plain[byte] for byte in raw]),
        (level, [chars[byte] if byte > 127 else spelling[byte][0] for byte in raw]),
    ):
        known = [id_ for id_ in ids if id_ is not None]
        assert len(known) == len(raw)
        detokenizer = IncrementalDetokenizer(tokenizer)
        at = 0
        while at < len(known):
            step = data.draw(st.integers(1, 5))
            detokenizer.append(known[at : at + step])
            at += step
        detokenizer.finish()
        assert detokenizer.text == tokenizer.decode(known)


@pytest.mark.parametrize("family", EXACT)
def test_real_text_streams_token_by_token(tokenizer_of: TokenizerOf, family: str) -> None:
    tokenizer = tokenizer_of(family)
    assert stream(tokenizer, tokenizer.encode(TEXT), []) == TEXT


def test_a_split_character_is_held_back_until_it_is_whole(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("byte_level")
    ids = tokenizer.encode("🎉", add_special_tokens=False)
    assert len(ids) > 1
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert [detokenizer.append([id_]) for id_ in ids] == [""] * (len(ids) - 1) + ["🎉"]


def test_a_cut_character_becomes_a_replacement_at_the_end(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("byte_level")
    detokenizer = IncrementalDetokenizer(tokenizer)
    assert detokenizer.append(tokenizer.encode("🎉", add_special_tokens=False)[:-1]) == ""
    assert detokenizer.finish() == "\N{REPLACEMENT CHARACTER}"


def test_the_leading_space_stays_after_a_prompt(tokenizer_of: TokenizerOf) -> None:
    """Sentencepiece strips the space of a text's first word; a completion's first word is not that."""
    tokenizer = tokenizer_of("byte_fallback")
    good = tokenizer.token_id("▁good")
    assert good is not None
    prompt = tokenizer.encode("Hello")
    assert stream(tokenizer, [good], prompt) == " good"
    assert stream(tokenizer, [good], []) == "good"
    assert stream(tokenizer, [good], [1]) == "good"  # a prompt of BOS alone has no text


def test_the_prompts_own_characters_do_not_come_again(tokenizer_of: TokenizerOf) -> None:
    tokenizer = tokenizer_of("byte_fallback")
    prompt = tokenizer.encode("good 你", add_special_tokens=False)
    more = tokenizer.encode("好", add_special_tokens=False)[1:]
    assert stream(tokenizer, more, prompt) == "好"
    assert stream(tokenizer, [*prompt[-1:], *more], prompt[:-1]) == "你好"


@pytest.mark.parametrize(
    ("family", "words"), [("word_piece", "hello worlds going"), ("metaspace", "hello worlds a")]
)
def test_generic_decoders_keep_their_spaces(tokenizer_of: TokenizerOf, family: str, words: str) -> None:
    tokenizer = tokenizer_of(family)
    ids = tokenizer.encode(words, add_special_tokens=False)
    assert stream(tokenizer, ids, []) == tokenizer.decode(ids) == words
    assert stream(tokenizer, ids[1:], ids[:1]) == words.removeprefix("hello")
    assert stream(tokenizer, ids * 40, []) == tokenizer.decode(ids * 40)


@pytest.mark.parametrize("family", FAMILIES)
def test_endless_garbage_is_not_looked_at_again_and_again(tokenizer_of: TokenizerOf, family: str) -> None:
    """Whatever a model writes, a token costs a bounded number of decoded tokens."""
    tokenizer = tokenizer_of(family)
    asked = 0
    original = tokenizer.decode

    def counting(ids: list[int], skip_special_tokens: bool = True) -> str:
        nonlocal asked
        asked += len(ids)
        return original(ids, skip_special_tokens)

    tokenizer.decode = counting  # type: ignore[method-assign, assignment]
    try:
        stream(tokenizer, [len(tokenizer) + 1, 7] * 500, [])
    finally:
        tokenizer.decode = original  # type: ignore[method-assign]
    assert asked <= 1000 * 64
