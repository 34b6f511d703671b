"""Small tokenizers of each family, built on the spot and saved as a model's files would be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from quire.text import Tokenizer, load_tokenizer


def byte_level() -> Backend:
    """Byte-level BPE as in GPT-2, Llama 3 and Qwen: the bytes, a few merges, special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("H", "e"), ("l", "l"), ("He", "ll"), ("o", "o"), ("Ġ", "w"), ("ä", "½"), ("ð", "Ł")]
    vocab = {token: index for index, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = Backend(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    backend.add_tokens([AddedToken("«added»", special=False), AddedToken("<tool>", special=False)])
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return backend


def byte_fallback() -> Backend:
    """Sentencepiece-like BPE with byte fallback as in Llama 2."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += sorted(set("abcdefghijklmnopqrstuvwxyzGH,.!"))
    merges = [("▁", "g"), ("o", "o"), ("▁g", "oo"), ("▁goo", "d"), ("l", "l"), ("▁", "▁")]
    vocab = {token: index for index, token in enumerate([*pieces, *(a + b for a, b in merges)])}
    backend = Backend(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")]
    )
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return backend


def word_piece() -> Backend:
    """WordPiece: words in one or more pieces, joined by spaces; a decoder of neither family above."""
    words = ["[UNK]", "[SEP]", "hello", "world", "##ing", "##s", "go", "!", ".", "n", "'", "t", "##t", "do"]
    backend = Backend(models.WordPiece(vocab={w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken("[SEP]", special=True)])
    return backend


def metaspace() -> Backend:
    """Unigram with Metaspace as in T5: the first token loses its space."""
    pieces = ["<unk>", "▁", "▁hello", "▁world", "s", "ing", "!", "▁go", "a"]
    backend = Backend(models.Unigram([(piece, -1.0 - i) for i, piece in enumerate(pieces)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return backend


FAMILIES = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "word_piece": word_piece,
    "metaspace": metaspace,
}


def _save(directory: Path, backend: Backend, **config: Any) -> Path:
    """Write tokenizer.json and tokenizer_config.json."""
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **config}), encoding="utf-8"
    )
    return directory


@pytest.fixture(scope="session")
def tokenizer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tokenizer]:
    """The tokenizer of a family, loaded once."""
    loaded: dict[str, Tokenizer] = {}

    def get(family: str) -> Tokenizer:
        if family not in loaded:
            directory = _save(tmp_path_factory.mktemp(family), FAMILIES[family]())
            loaded[family] = load_tokenizer(directory)
        return loaded[family]

    return get


@pytest.fixture
def save_tokenizer(tmp_path: Path) -> Callable[..., Path]:
    """Writes a family's tokenizer files into a fresh directory, with more for tokenizer_config.json."""

    def save(family: str = "byte_level", **config: Any) -> Path:
        return _save(tmp_path / "model", FAMILIES[family](), **config)

    return save
