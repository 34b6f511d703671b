"""Continuous batching: what the next step computes, decided from numbers alone. No torch."""

from quire.scheduler.config import SchedulerConfig
from quire.scheduler.drafting import DraftStats
from quire.scheduler.policy import Policy
from quire.scheduler.scheduler import Scheduler
from quire.scheduler.stats import SchedulerStats

__all__ = ["DraftStats", "Policy", "Scheduler", "SchedulerConfig", "SchedulerStats"]
