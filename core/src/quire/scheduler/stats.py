"""`SchedulerStats`: the scheduler in figures."""

from __future__ import annotations

from dataclasses import dataclass, field

from quire.kv import PoolUsage
from quire.scheduler.drafting import DraftStats

__all__ = ["SchedulerStats"]


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """The scheduler at one moment.

    Attributes:
        num_running, num_waiting: sequences (completions, not requests). Completions that will fork from a
            prompt not yet computed are in neither.
        num_preemptions: since the start.
        kv: per KV group its blocks.
        prefix_queries, prefix_hits: prompt tokens looked up in the prefix cache at starts, and found.
        drafts: what speculation came to.
        num_forced_tokens: tokens appended without having been sampled (see `Scheduler.append`).
    """

    num_running: int
    num_waiting: int
    num_preemptions: int
    kv: tuple[PoolUsage, ...]
    prefix_queries: int
    prefix_hits: int
    drafts: DraftStats = field(default_factory=DraftStats)
    num_forced_tokens: int = 0
