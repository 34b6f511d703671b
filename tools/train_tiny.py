"""Train a bundled demo model of Quire, or a head for one, from the Python standard library.

It takes a CPU and no download:

    python tools/train_tiny.py --preset tiny --out DIR [--steps N]

The run is reproducible in this sense: the corpus and the tokenizer are the same bytes (both hashes are
checked), the batches are the same, and the held-out loss ends within a tolerance of the published one.  The
weights differ in their last bits between machines, because floating-point sums are ordered differently.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import hashlib
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import Tokenizer
from tqdm import tqdm

from tiny_model import corpus as corpora
from tiny_model.export import write_json
from tiny_model.presets import PRESETS, PUBLISHED, HeadPreset, Preset, Published
from tiny_model.subjects import Head, Whole
from tiny_model.tokenizer import (
    BOS,
    TokenizerMismatchError,
    check_tokenizer,
    encode_chats,
    encode_texts,
    token_id,
    tokenizer_bytes,
    train_tokenizer,
)
from tiny_model.training import Pieces, TokenStream, round_to_bf16, train

heldout_files = corpora.heldout_files

#: Where the models are that heads are trained for, by their presets' names.
TARGETS = {"tiny": Path(__file__).resolve().parent.parent / "plugins/models/tiny/src/quire_models_tiny/data"}

# The numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def log(message: str) -> None:
    """Print a line without breaking the progress bar."""
    tqdm.write(message)
    sys.stdout.flush()


def _stream(tokenizer: Tokenizer, corpus: corpora.Corpus, preset: Preset) -> TokenStream:
    documents = encode_texts(tokenizer, corpus.texts) + encode_chats(tokenizer, corpus.chats)
    texts = [tokenizer.decode([i], skip_special_tokens=True) for i in range(tokenizer.get_vocab_size())]
    return TokenStream(documents, Pieces(texts), token_id(tokenizer, BOS), preset.seed)


def _check_loss(loss: float, published: Published) -> None:
    if abs(loss - published.loss) > published.tolerance:
        raise SystemExit(
            f"train_tiny: held-out loss {loss:.4f} is not within {published.tolerance} of the published "
            f"{published.loss}; "
            "compare the versions and threads in training.json with the published ones"
        )


def _keep_freed_memory() -> None:
    """Make glibc reuse freed blocks: returning them after every step costs much time."""
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # Another C library: nothing to tune, only slower.
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**29)):
        mallopt(option, value)


def run(preset: Preset, out: Path, steps: int, any_corpus: bool, compiled: bool) -> None:
    """Train `preset` and write its files into `out`."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    corpus = corpora.load_corpus(preset.seed, any_corpus)
    tokenizer = train_tokenizer(corpus.texts)
    if any_corpus:
        tokenizer_sha256 = hashlib.sha256(tokenizer_bytes(tokenizer)).hexdigest()
    else:
        tokenizer_sha256 = check_tokenizer(tokenizer)
    log(f"corpus {corpus.sha256}: {corpus.files} files, {len(corpus.heldout)} held out")
    log(f"tokenizer {tokenizer_sha256}")
    stream = _stream(tokenizer, corpus, preset)
    heldout = encode_texts(tokenizer, list(corpus.heldout.values()))
    subject: Whole | Head
    if isinstance(preset, HeadPreset):
        subject = Head(preset, TARGETS[preset.target], heldout)
    else:
        subject = Whole(preset, heldout, sum(len(text.encode()) for text in corpus.heldout.values()))
    model = subject.model
    tokens = sum(
        max(1, preset.tokens_per_step // length) * length
        for length in (preset.seq_len(step, steps) for step in range(steps + preset.finish(steps)))
    )
    epochs = tokens / len(stream.tokens)
    log(f"{len(stream.tokens)} tokens, {steps} + {preset.finish(steps)} steps, {epochs:.2f} epochs")
    trained = train(preset, model, stream, steps, log, subject.loss, compiled)
    round_to_bf16(model)
    size, heldout_record = subject.export(tokenizer, out), subject.record()
    parameters = sum(p.numel() for p in model.parameters())
    record: dict[str, Any] = {
        "preset": dataclasses.asdict(preset),
        "corpus": {
            "what": "the Python standard library's sources",
            "python": platform.python_version(),
            "sha256": corpus.sha256,
            "files": corpus.files,
            "tokens": len(stream.tokens),
            "chats": len(corpus.chats),
            "heldout_files": list(corpus.heldout),
        },
        "tokenizer_sha256": tokenizer_sha256,
        "parameters": parameters,
        "weight_bytes": size,
        "seed": preset.seed,
        "steps": steps,
        "finish_steps": preset.finish(steps),
        "tokens": tokens,
        "train_loss": round(trained.loss, 4),
        "heldout_loss_by_step": {str(step): round(loss, 4) for step, loss in trained.heldout.items()},
        "heldout": heldout_record,
        "versions": {
            "torch": torch.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "compiled": compiled,
        "train_seconds": round(trained.seconds),
        "train_tokens_per_second": round(tokens / trained.seconds),
        "wall_seconds": round(time.monotonic() - began),
    }
    write_json(out / "training.json", record)
    log(f"{parameters} parameters, {size} bytes, {record['wall_seconds']} s; held out: {heldout_record}")
    published = PUBLISHED.get(preset.name)
    if published is not None and steps == preset.steps and not any_corpus:
        _check_loss(heldout_record["loss"], published)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny", help="which model to train")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the model files go")
    parser.add_argument("--steps", type=int, help="train for another number of steps than the preset says")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--any-corpus", action="store_true", help="accept a corpus other than the pinned one")
    parser.add_argument(
        "--eager", action="store_true", help="no torch.compile: needs no C++ compiler, half as fast"
    )
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    steps = preset.steps if arguments.steps is None else arguments.steps
    if steps < 1:
        parser.error(f"--steps {steps}: give a number of at least 1")
    _keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    try:
        run(preset, arguments.out, steps, arguments.any_corpus, not arguments.eager)
    except (corpora.CorpusMismatchError, TokenizerMismatchError) as error:
        raise SystemExit(f"train_tiny: {error}") from error


if __name__ == "__main__":
    main()
