"""The models that are quantized, and the text they are calibrated with.

The random ones are seeded Llamas, small enough to be kept in a repository; their vocabulary is ASCII.
Text is sources of the standard library; what perplexity is measured on is not calibrated with.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

VOCABULARY = 128
SAMPLES, LENGTH = 32, 256
WINDOW = 1024
PROMPTS = ("def f(x):\n", "import os", "class A:\n    ")

_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,  # AutoAWQ wants every width to be a multiple of 64
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
RANDOM: dict[str, dict[str, Any]] = {
    "narrow": _BASE,
    "wide": {**_BASE, "hidden_size": 128, "intermediate_size": 128},
    "biased": {**_BASE, "attention_bias": True},
    "untied": {**_BASE, "tie_word_embeddings": False},
}
_CALIBRATION = (
    "bdb", "calendar", "cmd", "configparser", "csv", "decimal", "difflib", "dis", "doctest", "enum",
    "fractions", "heapq", "inspect", "mailbox", "optparse", "pdb", "pickletools", "pprint", "random", "shlex",
    "smtplib", "string", "textwrap", "threading", "trace", "turtle", "unittest.case", "unittest.mock",
    "uuid", "zipfile",
)  # fmt: skip
HELD_OUT = (
    "asyncio.streams", "codecs", "copy", "email.parser", "fileinput", "ftplib", "gettext", "hashlib",
    "locale", "logging.handlers", "multiprocessing.util", "unittest.async_case",
)  # fmt: skip
"""What the bundled model was not trained on either (see `tiny_model.corpus`)."""


def save_random(name: str, directory: Path) -> None:
    """Save a random Llama in fp16, with a tokenizer of its 128 tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**RANDOM[name]))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.normal_(generator=generator)
            if parameter.ndim > 1:
                parameter.mul_(1.5 / parameter.shape[-1] ** 0.5)
            elif parameter_name.endswith("bias"):
                parameter.mul_(0.1)
            else:
                parameter.mul_(0.2).add_(1)
    model.half().save_pretrained(directory)
    _save_tokenizer(directory)


def calibration(directory: Path) -> list[list[int]]:
    """Token ids, `SAMPLES` of `LENGTH`, by the tokenizer of a model."""
    texts = [encode(directory, source_text(module)) for module in _CALIBRATION]
    cuts = [(index % len(texts), index // len(texts) * LENGTH) for index in range(SAMPLES)]
    return [texts[text][start : start + LENGTH] for text, start in cuts]


def prompts(directory: Path) -> list[list[int]]:
    """Token ids of `PROMPTS`."""
    return [encode(directory, text) for text in PROMPTS]


def held_out(directory: Path) -> list[list[int]]:
    """Token ids that perplexity is measured on, up to `WINDOW` of each module."""
    return [encode(directory, source_text(module))[:WINDOW] for module in HELD_OUT]


def encode(directory: Path, text: str) -> list[int]:
    """Token ids of a text, without any that mark its ends."""
    from tokenizers import Tokenizer

    ids: list[int] = (
        Tokenizer.from_file(str(directory / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    )
    return ids


def source_text(module: str) -> str:
    """Source of a module of the standard library; ASCII."""
    root = Path(sys.modules["os"].__file__ or "").parent
    path = root.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text(encoding="utf-8").encode("ascii", "ignore").decode()


def _save_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # Printable ASCII by its own code; newline and space by the letters that byte-level encodings use.
    vocab = {f"<{index}>": index for index in range(VOCABULARY)}
    for code, token in [(0, "<s>"), (1, "</s>"), (10, "Ċ"), (32, "Ġ")]:
        vocab[token] = vocab.pop(f"<{code}>")
    for code in range(33, 127):
        vocab[chr(code)] = vocab.pop(f"<{code}>")
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    factory: Any = PreTrainedTokenizerFast
    factory(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>").save_pretrained(
        directory
    )
