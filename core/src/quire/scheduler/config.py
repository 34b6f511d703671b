"""The scheduler's numbers, resolved: no defaults from files, no "auto", no None."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quire.errors import ConfigError

__all__ = ["SchedulerConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Bounds of every step, and which features are on.

    Attributes:
        max_num_seqs: sequences running at once; slots are `0 .. max_num_seqs - 1`.
        max_num_batched_tokens: tokens computed in one step.
        max_model_len: tokens of one sequence, prompt and output.
        block_size: tokens per KV block.
        num_blocks: per KV group its block ids, the null block included.
        enable_prefix_caching: reuse the KV of equal prefixes.
        enable_chunked_prefill: a prompt may be spread over steps.
        policy: "fcfs" or "priority" (a lower `EngineRequest.priority` runs earlier).
        num_speculative_tokens: most tokens proposed ahead of a sequence; 0 for no speculation.
        windows: per KV group its sliding window in tokens, None for none; () if no group has any.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    num_blocks: tuple[int, ...]
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    policy: Literal["fcfs", "priority"] = "fcfs"
    num_speculative_tokens: int = 0
    windows: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.num_speculative_tokens < 0:
            raise ConfigError(f"num_speculative_tokens={self.num_speculative_tokens} must be at least 0.")
        if not self.num_blocks:
            raise ConfigError("num_blocks=() names no KV group; give one count per group.")
        if self.windows and len(self.windows) != len(self.num_blocks):
            raise ConfigError(
                f"windows={self.windows} does not name one window for each of the {len(self.num_blocks)} KV "
                "groups of num_blocks; give None for a group without."
            )

    @property
    def groups(self) -> tuple[tuple[int, int | None], ...]:
        """Per KV group its usable blocks and its window."""
        windows = self.windows or (None,) * len(self.num_blocks)
        return tuple((count - 1, window) for count, window in zip(self.num_blocks, windows, strict=True))
