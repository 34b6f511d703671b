"""Scheduling policies: who runs first, and who gives way.

A policy compares requests by numbers; it never touches blocks, slots or plans.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from quire.scheduler.state import Sequence

__all__ = ["Fcfs", "Policy", "Priority", "make_policy"]


class Policy(ABC):
    """The order of requests.

    Must hold: the order is total and never changes while a sequence lives, and a victim never ranks
    before the claimant. So the first in order is never preempted for another, always progresses, and
    no two sequences can preempt each other in turn.
    """

    @abstractmethod
    def order(self, sequence: Sequence) -> tuple[int, ...]:
        """Sort key, unique among live sequences; the smallest runs first."""

    @abstractmethod
    def victim(self, running: list[Sequence], claimant: Sequence) -> Sequence | None:
        """Who loses its blocks so that `claimant` gets some.

        Args:
            running: the running sequences in order, at least one.
            claimant: one of them that cannot grow, or the first waiting one that cannot start.

        Returns:
            One of `running`, possibly the claimant itself; None if the claimant has to wait.
        """


class Fcfs(Policy):
    """First come, first served; a waiting request never displaces a running one."""

    def order(self, sequence: Sequence) -> tuple[int, ...]:
        return (sequence.state.number, sequence.index)

    def victim(self, running: list[Sequence], claimant: Sequence) -> Sequence | None:
        return running[-1] if claimant.slot >= 0 else None


class Priority(Policy):
    """Lower `priority` first, then by arrival; a waiting request displaces those it is strictly below."""

    def order(self, sequence: Sequence) -> tuple[int, ...]:
        return (sequence.state.request.priority, sequence.state.number, sequence.index)

    def victim(self, running: list[Sequence], claimant: Sequence) -> Sequence | None:
        last = running[-1]
        if claimant.slot >= 0 or last.state.request.priority > claimant.state.request.priority:
            return last
        return None


_POLICIES: dict[str, type[Policy]] = {"fcfs": Fcfs, "priority": Priority}


def make_policy(name: str) -> Policy:
    """The policy called `name`."""
    return _POLICIES[name]()
