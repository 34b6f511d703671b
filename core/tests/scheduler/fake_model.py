"""The models that the fake worker and the references share: functions of all tokens before."""

from __future__ import annotations

VOCAB = 12
EOS = 11


def next_token(seed: int, prefix_hash: int, position: int) -> int:
    """The "model": a token that depends on the seed, on every token before it and on the adapter."""
    return hash((seed, prefix_hash, position)) % VOCAB


def log_probabilities(prefix_hash: int) -> list[float]:
    """The "model" of beams: of every token, after a prefix. End tokens are likely."""
    return [
        -(hash((prefix_hash, token)) % 100_003) / 20_011 * (0.5 if token == EOS else 1.0)
        for token in range(VOCAB)
    ]
