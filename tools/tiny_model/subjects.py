"""What a run trains, a whole model or a head: how it is made, judged and written.

Knows nothing of the loop that trains it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tiny_model.export import export, export_head
from tiny_model.head import Eagle3, load_target
from tiny_model.model import Llama
from tiny_model.presets import HeadPreset, Preset
from tiny_model.scoring import EVAL_WINDOW, head_score, heldout_score

_HEAD = (
    "cross-entropy to the target's distribution, its mean as in training and that of each token ahead, and "
    "the chance at temperature 1 that such a draft is accepted if those before it were"
)
_ON_WHAT = "bf16 weights, float32 arithmetic; each file and its eos, in windows starting with bos"


class Whole:
    """A whole model; `documents` are held out and have `size` bytes."""

    def __init__(self, preset: Preset, documents: list[list[int]], size: int) -> None:
        self.preset, self.model = preset, Llama(preset)
        self._documents, self._size = documents, size

    def loss(self) -> float:
        """By now."""
        return heldout_score(self.model, self._documents, self._size).loss

    def record(self) -> dict[str, Any]:
        """How good it is, for training.json."""
        score = heldout_score(self.model, self._documents, self._size)
        return {
            "loss": round(score.loss, 4),
            "perplexity": round(score.perplexity, 3),
            "bits_per_byte": round(score.bits_per_byte, 4),
            "tokens": score.tokens,
            "bytes": score.bytes,
            "window": EVAL_WINDOW,
            "what": _ON_WHAT,
        }

    def export(self, tokenizer: Tokenizer, out: Path) -> int:
        """Write it; bytes of the weights."""
        return export(self.model, tokenizer, self.preset, out)


class Head:
    """A head for the model in `target`; `documents` are held out."""

    def __init__(self, preset: HeadPreset, target: Path, documents: list[list[int]]) -> None:
        self.preset, self.model = preset, Eagle3(preset, load_target(preset.target, target))
        self._documents = documents

    def loss(self) -> float:
        """By now, on some of the documents."""
        return head_score(self.model, self._documents[::8]).loss

    def record(self) -> dict[str, Any]:
        """How good it is, for training.json."""
        score = head_score(self.model, self._documents)
        return {
            "loss": round(score.loss, 4),
            "losses": score.losses,
            "acceptance": score.acceptance,
            "tokens": score.tokens,
            "window": EVAL_WINDOW,
            "what": f"{_HEAD}; {_ON_WHAT}",
        }

    def export(self, tokenizer: Tokenizer, out: Path) -> int:
        """Write it; bytes of the weights."""
        return export_head(self.model, tokenizer, self.preset, out)
