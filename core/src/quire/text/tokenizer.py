"""The tokenizer: a thin layer over transformers' tokenizers with what the engine needs.

Knows the tokenizer files of a model's directory. Never runs code from a repository and never asks
the network: whatever is not in the directory is not there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from quire.contracts.source import ModelFiles
from quire.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

__all__ = ["Tokenizer", "load_tokenizer"]

_JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_CONVERTIBLE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")


class Tokenizer:
    """A loaded tokenizer.

    Encoding and decoding go straight to the Rust tokenizer: a truncation or padding that was saved
    with the file is switched off, and `clean_up_tokenization_spaces` is not applied, for a clean-up
    of spaces would change what the model wrote and could not be streamed.

    Attributes:
        hf: the transformers tokenizer underneath.
        backend: the `tokenizers.Tokenizer` under that.
    """

    def __init__(self, hf: Any) -> None:
        self.hf = hf
        self.backend: Backend = hf.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`, with BOS and EOS as the model's files ask unless switched off."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`. Ids that name no token give nothing; invalid UTF-8 gives U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def piece(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it (not its text), or None if the id names no token."""
        return self.backend.id_to_token(token_id)

    def token_id(self, piece: str) -> int | None:
        """The id of a token by its spelling, or None."""
        return self.backend.token_to_id(piece)

    @cached_property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included. A model's logits may be wider."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end-of-sequence token, None if there is none."""
        return cast("int | None", self.hf.eos_token_id)

    @property
    def bos_token_id(self) -> int | None:
        """Id of the beginning-of-sequence token, None if there is none."""
        return cast("int | None", self.hf.bos_token_id)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that `skip_special_tokens` leaves out."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(id_ for id_, token in added.items() if token.special)

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """Named special tokens (`bos_token`, `eos_token`, ...) as templates see them."""
        return {name: str(token) for name, token in self.hf.special_tokens_map.items()}

    @property
    def chat_template(self) -> str | dict[str, str] | None:
        """The model's chat template, several by name, or None if it has none."""
        return cast("str | dict[str, str] | None", self.hf.chat_template)

    @cached_property
    def decoder_state(self) -> dict[str, Any]:
        """The decoder's own description: what is done to make text of tokens. Empty if it has none."""
        decoder = self.backend.decoder
        if decoder is None:
            return {}
        # The serialised form is the only view that tokenizers gives of a decoder's settings.
        return cast("dict[str, Any]", json.loads(decoder.__getstate__()))


def load_tokenizer(source: ModelFiles | Path | str) -> Tokenizer:
    """Load the tokenizer of a model's directory.

    tokenizer.json is the one truth where it exists, read as it was written; it needs neither
    torch nor a model class, which keeps start-up short. Older files (sentencepiece, vocab and
    merges) are converted by transformers.

    Args:
        source: a resolved model, or the directory with its files.

    Raises:
        CheckpointError: no tokenizer files, or broken ones; names the file.
    """
    directory = source.directory if isinstance(source, ModelFiles) else Path(source)
    if not directory.is_dir():
        raise CheckpointError(f"No tokenizer: there is no directory {str(directory)!r}.")
    for name in _JSON_FILES:
        _check_json(directory / name)
    if (directory / "tokenizer.json").is_file():
        return Tokenizer(_load_fast(directory))
    if any((directory / name).is_file() for name in _CONVERTIBLE):
        return Tokenizer(_convert(directory))
    raise CheckpointError(
        f"No tokenizer in {str(directory)!r}: neither tokenizer.json nor any of {', '.join(_CONVERTIBLE)}. "
        "Name another one with `tokenizer=`, or save one there with the tokenizer's `save_pretrained`."
    )


def _load_fast(directory: Path) -> Any:
    """tokenizer.json through transformers' generic class: no model class, no auto_map, no network."""
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(
            str(directory), local_files_only=True, trust_remote_code=False
        )
    # The Rust reader raises bare Exception, and transformers whatever it stumbles over.
    except Exception as error:
        raise CheckpointError(
            f"{directory / 'tokenizer.json'} (or tokenizer_config.json beside it) cannot be used: "
            f"{_first_line(error)}. "
            "Fetch the files again, or save them anew with the tokenizer's `save_pretrained`."
        ) from error


def _convert(directory: Path) -> Any:
    """Older tokenizer files through the model's own class, which knows how to convert them."""
    from transformers import AutoTokenizer

    try:
        hf = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise CheckpointError(
            f"The tokenizer in {str(directory)!r} has no tokenizer.json, and its older files cannot be "
            f"converted: {_first_line(error)}. Install what the message asks for (often `sentencepiece`), "
            "or name a directory with a tokenizer.json as `tokenizer=`."
        ) from error
    if not getattr(hf, "is_fast", False):
        raise CheckpointError(
            f"The tokenizer in {str(directory)!r} ({type(hf).__name__}) has neither tokenizer.json nor a "
            "fast form. Name a directory with a tokenizer.json as `tokenizer=`."
        )
    return hf


def _check_json(path: Path) -> None:
    """Name the broken file ourselves: the readers below do not."""
    if not path.is_file():
        return
    try:
        # A tokenizer.json may hold tens of megabytes, and the Rust reader checks it anyway.
        if path.name == "tokenizer.json":
            return
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}. Fetch the file again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(value).__name__}.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
