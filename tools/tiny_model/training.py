"""The training loop: which tokens each step sees, and the two optimisers.

The batch of a step follows from the preset, the step count and the step, never from time.  A run keeps
nothing to resume from, so what it gives is always one whole run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from tiny_model.presets import Preset

#: How far, in tokens, a sequence may start before its place in the stream to start at a top-level line.
_SNAP = 192
#: How often the finishing steps split a line break from its indentation, and a word from what leads it.
_SPLIT_LINE, _SPLIT_WORD = 0.06, 0.02
#: Steps between two held-out scores of a run.
_SCORE_EVERY = 600


class Pieces:
    """What the vocabulary's texts say about single tokens: which end a line, and which fall into two others.

    A prompt may end inside what would have been one token: after a line break whose indentation is yet to
    come, or after the blank that leads a word.  A model that only ever saw whole tokens does not know how to
    go on from there, so the finishing steps show it some tokens as their two parts.  It learns the second
    part but is never asked for the first, so that it does not start to write in parts itself.
    """

    def __init__(self, texts: list[str]) -> None:
        self.line_break = np.asarray([text.endswith("\n") for text in texts], dtype=np.bool_)
        # A token that is no whole UTF-8 character has no text of its own.
        ids = {text: i for i, text in enumerate(texts) if text and "\ufffd" not in text}
        self.first = np.arange(len(texts), dtype=np.int64)
        self.second = np.arange(len(texts), dtype=np.int64)
        self.chance = np.zeros(len(texts))
        for i, text in enumerate(texts):
            at, chance = text.rfind("\n") + 1, _SPLIT_LINE
            if at == 0 and text[:1] in {" ", ".", "_"}:
                at, chance = 1, _SPLIT_WORD
            if text[:at] in ids and text[at:] in ids:
                self.first[i], self.second[i] = ids[text[:at]], ids[text[at:]]
                self.chance[i] = chance

    def split(
        self, row: NDArray[np.int64], target: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Split some tokens of a row; both results keep the row's length."""
        chosen = rng.random(len(row)) < self.chance[row]
        repeats = 1 + chosen
        tails = np.cumsum(repeats)[chosen] - 1
        wide, wide_target = np.repeat(row, repeats), np.repeat(target, repeats)
        wide[tails] = wide_target[tails] = self.second[row[chosen]]
        wide[tails - 1] = self.first[row[chosen]]
        wide_target[tails - 1] = -100
        return wide[: len(row)], wide_target[: len(row)]


class TokenStream:
    """All documents in one row, cut anew for every sequence length and epoch.

    A sequence is `<|bos|>` and then a stretch of the row, moved back where possible to the nearest unindented
    line, so that the model learns to go on from a prompt that starts a statement, not only a file.
    """

    def __init__(self, documents: list[list[int]], pieces: Pieces, bos: int, seed: int) -> None:
        order = np.random.default_rng([seed, 0]).permutation(len(documents))
        self.tokens = np.concatenate([np.asarray(documents[i], dtype=np.int64) for i in order])
        self.bos, self.seed, self.pieces = bos, seed, pieces
        # A token after a line break without indentation, or the first one of a document, is a good start.
        before = np.concatenate(([True], pieces.line_break[self.tokens[:-1]] | (self.tokens[:-1] == bos)))
        self.starts = np.flatnonzero(before)

    def sequence_starts(self, length: int, first: int, count: int) -> NDArray[np.int64]:
        """Where sequences number `first` up to `first + count` of this length begin in the row."""
        per_epoch = len(self.tokens) // length - 1
        found: list[int] = []
        for number in range(first, first + count):
            epoch, place = divmod(number, per_epoch)
            rng = np.random.default_rng([self.seed, 1 + epoch, length])
            offset = int(rng.integers(length))
            at = offset + int(rng.permutation(per_epoch)[place]) * length
            start = int(self.starts[np.searchsorted(self.starts, at, side="right") - 1])
            found.append(start if at - start <= _SNAP else at)
        return np.asarray(found, dtype=np.int64)

    def batch(self, length: int, first: int, count: int, split: bool) -> tuple[Tensor, Tensor]:
        """Inputs and targets of `count` sequences, with some tokens split in two if `split`."""
        starts = self.sequence_starts(length, first, count)
        rows = self.tokens[starts[:, None] + np.arange(length)]
        # The row may itself begin with <|bos|>: two in a row are not worth learning.
        targets = np.where(rows == self.bos, -100, rows)
        if split:
            rng = np.random.default_rng([self.seed, length, first])
            pairs = [self.pieces.split(row, target, rng) for row, target in zip(rows, targets, strict=True)]
            rows, targets = np.stack([row for row, _ in pairs]), np.stack([target for _, target in pairs])
        ids = np.concatenate((np.full((count, 1), self.bos), rows[:, :-1]), axis=1)
        return torch.from_numpy(ids), torch.from_numpy(targets)


def _optimizers(model: nn.Module, preset: Preset) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the norms and, where there is one, the embedding."""
    named = list(model.named_parameters())
    embedding = [p for name, p in named if name == "embed_tokens.weight"]
    matrices = [p for name, p in named if p.ndim == 2 and name != "embed_tokens.weight"]
    norms = [p for _, p in named if p.ndim == 1]
    muon = torch.optim.Muon(
        matrices, lr=preset.muon_lr, weight_decay=preset.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(
        [{"params": embedding, "weight_decay": preset.weight_decay}, {"params": norms, "weight_decay": 0.0}],
        lr=preset.adam_lr,
        betas=(0.9, 0.95),
    )
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return [muon, adamw]


@dataclass(frozen=True)
class Trained:
    """What a run gives: its last mean training loss, held-out losses by steps done, and seconds.

    `seconds` is wall time from the first step to the last, compilation included, held-out scores left out.
    """

    loss: float
    heldout: dict[int, float]
    seconds: float


def train(
    preset: Preset,
    model: nn.Module,
    stream: TokenStream,
    steps: int,
    log: Callable[[str], None],
    heldout: Callable[[], float],
    compiled: bool,
) -> Trained:
    """Train `model`, which gives a loss, for `steps` steps and the finishing steps of `preset`."""
    torch.manual_seed(preset.seed)
    optimizers = _optimizers(model, preset)
    recent, scoring = -1.0, 0.0
    scores: dict[int, float] = {}
    used = {preset.short_seq: 0, preset.long_seq: 0}
    forward: Callable[[Tensor, Tensor], Tensor] = torch.compile(model, dynamic=False) if compiled else model
    total = steps + preset.finish(steps)
    began = time.monotonic()
    bar = tqdm(range(total), unit="step", mininterval=5, smoothing=0.05)
    for step in bar:
        if step == steps:
            optimizers = _optimizers(model, preset)
        length = preset.seq_len(step, steps)
        count = max(1, preset.tokens_per_step // length)
        ids, targets = stream.batch(length, used[length], count, split=step >= steps)
        used[length] += count
        with torch.autocast("cpu", torch.bfloat16):
            loss = forward(ids, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * preset.lr_scale(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(
                f"step {step}: the loss is {value}; lower muon_lr or adam_lr of preset {preset.name}"
            )
        # A running mean over about fifty steps; one step's loss says too little.
        recent = value if recent < 0 else recent + (value - recent) / min(step + 1, 50)
        if step % 20 == 0:
            bar.set_postfix_str(f"loss {recent:.3f}", refresh=False)
        done = step + 1
        if done != total and (done % _SCORE_EVERY == 0 or done == steps):
            paused = time.monotonic()
            scores[done] = heldout()
            log(f"step {done}: train loss {recent:.4f}, held-out loss {scores[done]:.4f}")
            scoring += time.monotonic() - paused
    return Trained(recent, scores, time.monotonic() - began - scoring)


def round_to_bf16(model: nn.Module) -> None:
    """Round the weights in place to what the published file holds."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(torch.bfloat16))
