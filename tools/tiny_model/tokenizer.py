"""The tokenizer of the demo models: a byte-level BPE whose pre-tokenizer suits Python source.

It is lossless (bytes in, bytes out: no normaliser, no clean-up of spaces) and keeps a line break together
with the indentation after it, so that the layout of a code block costs one token per line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tiny_model.corpus import Turn
from tiny_model.presets import VOCAB_SIZE

TOKENIZER_SHA256 = "a74cbfa03cb0549e266d217dcdff08ca0e30cfaf460e34dfdd683ac7b1699cb7"

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
END = "<|end|>"
#: In the order of their ids, which start at 0.
SPECIAL_TOKENS = (BOS, EOS, PAD, "<|user|>", "<|assistant|>", "<|system|>", END)

# One piece is: the end of a line with the indentation of the next one; a dunder name; a word with the one
# blank, dot or underscore that leads it; up to three digits; a run of punctuation; or other white space.
_PIECES = (
    r"\s*[\r\n][ \t]*"
    r"| ?__\p{L}+__"
    r"|[ ._]?\p{L}+"
    r"| ?\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+"
    r"|\s+(?!\S)"
    r"|\s+"
)

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{- raise_exception('unknown role ' + message['role'] + ': use system, user or assistant') }}"
    "{%- endif %}"
    "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


class TokenizerMismatchError(Exception):
    """Training the tokenizer did not give the published bytes."""


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that has to exist."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise TokenizerMismatchError(f"the tokenizer has no token {token!r}; train it with this tool")
    return int(found)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Train the byte-level BPE on `texts`; the result has exactly `VOCAB_SIZE` entries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, token_id(tokenizer, BOS))]
    )
    return tokenizer


def tokenizer_bytes(tokenizer: Tokenizer) -> bytes:
    """The content of `tokenizer.json`."""
    return (tokenizer.to_str(pretty=False) + "\n").encode()


def check_tokenizer(tokenizer: Tokenizer) -> str:
    """Return the SHA-256 of `tokenizer.json`; refuse one that is not the published one."""
    sha256 = hashlib.sha256(tokenizer_bytes(tokenizer)).hexdigest()
    if sha256 != TOKENIZER_SHA256:
        raise TokenizerMismatchError(
            f"tokenizer.json has SHA-256 {sha256}, but the published one has {TOKENIZER_SHA256}; install the "
            "version of `tokenizers` that training.json records, or pass --any-corpus to accept this one"
        )
    return sha256


def write_tokenizer(tokenizer: Tokenizer, out: Path, max_positions: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into `out`."""
    (out / "tokenizer.json").write_bytes(tokenizer_bytes(tokenizer))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [token for token in SPECIAL_TOKENS if token not in (BOS, EOS, PAD)],
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": CHAT_TEMPLATE,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Encode whole documents: `<|bos|>` text `<|eos|>`."""
    eos = token_id(tokenizer, EOS)
    return [[*encoding.ids, eos] for encoding in tokenizer.encode_batch(texts)]


def encode_chats(tokenizer: Tokenizer, chats: list[list[Turn]]) -> list[list[int]]:
    """Encode conversations as the chat template writes them, each followed by `<|eos|>`."""
    bos, eos, end = (token_id(tokenizer, token) for token in (BOS, EOS, END))
    contents = [content for turns in chats for _, content in turns]
    encoded = iter(tokenizer.encode_batch(contents, add_special_tokens=False))
    documents: list[list[int]] = []
    for turns in chats:
        ids = [bos]
        for role, _ in turns:
            ids += [token_id(tokenizer, f"<|{role}|>"), *next(encoded).ids, end]
        documents.append([*ids, eos])
    return documents
