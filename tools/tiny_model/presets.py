"""The sizes and training recipes of the bundled demo models: one table entry per model.

A preset says everything that decides the weights (architecture, step count, batch, learning rates, seed), so
that two runs of one preset differ only by floating-point rounding.  The schedule counts steps, never seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Entries of the shared tokenizer, special tokens included.  Every preset uses this one vocabulary, because a
#: draft model can only propose tokens that its target model knows.
VOCAB_SIZE = 4096


@dataclass(frozen=True)
class Preset:
    """One trainable model: a Llama architecture and the recipe that trains it."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    steps: int
    tokens_per_step: int = 8192
    # Most sequences are short, because attention at full length costs a third more time per token.
    short_seq: int = 512
    long_seq: int = 2048
    # Long sequences: every `long_every`-th step, so that far positions are learnt while the learning rate is
    # still high, and all of the last `long_tail` share of the run.
    long_every: int = 8
    long_tail: float = 0.10
    max_positions: int = 2048
    rope_theta: float = 10000.0
    rms_eps: float = 1e-5
    muon_lr: float = 4e-3
    adam_lr: float = 4e-3
    weight_decay: float = 0.1
    warmup: int = 100
    #: The last share of the steps, over which the learning rate falls to nearly zero.
    decay: float = 0.44
    #: After the main run: steps with fresh optimisers, from `finish_lr` times the learning rates down to 0,
    #: in which some tokens are split in two (see `Pieces`).
    finish_steps: int = 325
    finish_lr: float = 0.25
    seed: int = 20240311

    def finish(self, steps: int) -> int:
        """The number of finishing steps after a main run of `steps` steps."""
        return min(self.finish_steps, steps // 5)

    def seq_len(self, step: int, steps: int) -> int:
        """The sequence length of `step` in a run of `steps` steps; finishing steps come after these."""
        tail = steps > step >= steps - round(self.long_tail * steps)
        return self.long_seq if tail or step % self.long_every == self.long_every - 1 else self.short_seq

    def lr_scale(self, step: int, steps: int) -> float:
        """The factor on every learning rate: warm-up, a plateau, linear decay; the same again to finish."""
        if step >= steps:
            left = 1 - (step - steps) / self.finish(steps)
            return self.finish_lr * min((step - steps + 1) / 10, left)
        warmup = min(self.warmup, max(1, steps // 10))
        if step < warmup:
            return (step + 1) / warmup
        return min(1.0, max(0.005, (steps - step) / (self.decay * steps)))


@dataclass(frozen=True)
class HeadPreset(Preset):
    """An EAGLE-3 head: `layers` is 1, and what it lacks is the model's that it proposes to."""

    target: str = "tiny"
    #: The target's hidden states that it reads, by how many layers made them.
    depths: tuple[int, ...] = (2, 3, 4)
    #: Tokens that it goes ahead in training, by features of its own from the second on.
    ahead: int = 3
    #: What each of these counts, beside the one before.
    ahead_weight: float = 0.8
    #: Of the rows of a sequence, those that go ahead further than one token.
    stride: int = 4


@dataclass(frozen=True)
class Published:
    """The held-out loss of published weights, and how far a rerun may end from it (nats per token)."""

    loss: float
    tolerance: float


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="tiny",
            hidden=256,
            layers=4,
            heads=4,
            kv_heads=2,
            head_dim=64,
            intermediate=768,
            steps=2375,
        ),
        Preset(  # proposes tokens for `tiny`: a sixth of its size, most of that the embedding
            name="tiny-draft",
            hidden=128,
            layers=1,
            heads=2,
            kv_heads=1,
            head_dim=64,
            intermediate=384,
            steps=2375,
        ),
        HeadPreset(  # proposes tokens for `tiny` from its hidden states, by its embedding and LM head
            name="tiny-eagle",
            hidden=256,
            layers=1,
            heads=4,
            kv_heads=2,
            head_dim=64,
            intermediate=256,
            steps=900,
            finish_steps=100,
            warmup=60,
            tokens_per_step=4096,
            short_seq=1024,
            long_seq=1024,
        ),
    )
}

#: By preset name.  The tolerance is about six times what two short runs, compiled and eager, ended apart.
PUBLISHED: dict[str, Published] = {
    "tiny": Published(loss=2.5588, tolerance=0.03),
    "tiny-draft": Published(loss=3.4696, tolerance=0.03),
    "tiny-eagle": Published(loss=3.3839, tolerance=0.03),
}
