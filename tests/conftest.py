"""Small random checkpoints with a tokenizer, shared by the cross-package tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire import LLM
from quire.testing.model import Reference, save_random_checkpoint

if TYPE_CHECKING:
    from .eagle_heads import ReferenceHead

VOCAB = 320
BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 56,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 7,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**BASE, "model_type": "llama", "rope_parameters": LLAMA3_ROPE},
    "llama-tied": {**BASE, "model_type": "llama", "tie_word_embeddings": True},
    "mistral": {**BASE, "model_type": "mistral", "sliding_window": 9},
    "qwen2": {**BASE, "model_type": "qwen2"},
    "qwen2-window": {
        **BASE,
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 1,
    },
    "qwen3": {**BASE, "model_type": "qwen3"},
}


@pytest.fixture(scope="session", autouse=True)
def _quiet_machine() -> None:
    """No test may ask a network, whatever the machine offers; none needs more than one thread."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    # Tensors this small lose more by waking threads than they gain.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reference]:
    """A random checkpoint of a family, with a byte-level tokenizer; made once a session."""
    made: dict[str, Reference] = {}

    def make(family: str) -> Reference:
        if family not in made:
            directory = tmp_path_factory.mktemp(family)
            made[family] = save_random_checkpoint(directory, FAMILIES[family])
            save_byte_tokenizer(directory)
        return made[family]

    return make


@pytest.fixture
def open_llm() -> Iterator[Callable[..., LLM]]:
    """Opens engines in fp32 with small pools, and shuts them down after the test."""
    opened: list[LLM] = []

    def make(reference: Reference | str, **settings: Any) -> LLM:
        model = reference if isinstance(reference, str) else str(reference.directory)
        defaults: Mapping[str, Any] = {"dtype": "float32", "max_num_seqs": 8, "kv_cache_memory_bytes": "8MiB"}
        llm = LLM(model, show_progress=False, **{**defaults, **settings})
        opened.append(llm)
        return llm

    yield make
    for llm in opened:
        llm.shutdown()


def save_noisy(source: Path, directory: Path) -> None:
    """A copy of a checkpoint with some noise in its weights: it mostly thinks alike."""
    generator = torch.Generator().manual_seed(5)
    for path in source.iterdir():
        if path.suffix != ".safetensors":
            (directory / path.name).write_bytes(path.read_bytes())
            continue
        tensors = {
            name: tensor + 0.05 * tensor.std() * torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1
            else tensor
            for name, tensor in load_file(path).items()
        }
        save_file(tensors, directory / path.name, metadata={"format": "pt"})


def save_byte_tokenizer(directory: Path) -> None:
    """A byte-level tokenizer of 258 tokens: BOS, EOS, and one for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    factory: Any = PreTrainedTokenizerFast
    tokenizer = factory(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    tokenizer.save_pretrained(directory)


def random_prompt(length: int, seed: int) -> list[int]:
    """Token ids that the byte tokenizer knows."""
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = torch.randint(2, 258, (length,), generator=generator).tolist()
    return ids


@pytest.fixture(scope="session")
def nearly(
    checkpoint: Callable[[str], Reference], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A checkpoint that is some noise away from that of a family: it guesses right every now and then."""
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(f"{family}-noisy")
            save_noisy(checkpoint(family).directory, made[family])
        return made[family]

    return make


@pytest.fixture(scope="session")
def make_head(
    checkpoint: Callable[[str], Reference], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., ReferenceHead]:
    """A random head for a family, of some form, once made."""
    from .eagle_heads import save_head

    made: dict[str, ReferenceHead] = {}

    def make(family: str, **form: Any) -> ReferenceHead:
        key = f"{family} {form}"
        if key not in made:
            made[key] = save_head(tmp_path_factory.mktemp("head"), checkpoint(family), **form)
        return made[key]

    return make


@pytest.fixture(scope="session")
def bigrams(tmp_path_factory: pytest.TempPathFactory) -> tuple[Reference, ReferenceHead]:
    """See `save_bigrams`."""
    from .eagle_heads import save_bigrams

    return save_bigrams(tmp_path_factory.mktemp("bigrams"))
