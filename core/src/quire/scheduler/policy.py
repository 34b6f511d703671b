"""Scheduling policies: who runs first, and who gives way.

A policy compares requests by numbers; it never touches blocks, slots or plans.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from quire.scheduler.state import Sequence

__all__ = ["Fcfs", "Policy", "Priority", "make_policy"]


class Policy(ABC):
    """The order of requests.

    Must hold: the order is total and never changes while a sequence lives, and a victim ranks after
    the claimant. So the first in order is never preempted and always progresses, and no two
    sequences can preempt each other in turn.
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
            One of `running` that ranks after the claimant; None if the claimant has to wait.
        """


class Fcfs(Policy):
    """First come, first served; a waiting request never displaces a running one."""

    def order(self, sequence: Sequence) -> tuple[int, ...]:
        return (sequence.state.number, sequence.index)

    def victim(self, running: list[Sequence], claimant: Sequence) -> Sequence | None:
        last = running[-1]
        return last if claimant.slot >= 0 and last is not claimant else None


class Priority(Policy):
    """Lower `priority` first, then by arrival; a waiting request displaces those it is strictly below."""

    def order(self, sequence: Sequence) -> tuple[int, ...]:
        return (sequence.state.request.priority, sequence.state.number, sequence.index)

    def victim(self, running: list[Sequence], claimant: Sequence) -> Sequence | None:
        last = running[-1]
        urgent = claimant.slot >= 0 or claimant.state.request.priority < last.state.request.priority
        return last if urgent and last is not claimant else None


_POLICIES: dict[str, type[Policy]] = {"fcfs": Fcfs, "priority": Priority}


def make_policy(name: str) -> Policy:
    """The policy called `name`."""
    return _POLICIES[name]()
