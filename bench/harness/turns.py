"""Who is measured when: groups of peers that fit the memory, rotated order, repeated rounds.

Knows names and numbers; starts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Measured = TypeVar("Measured", bound="HasShare")


class HasShare(Protocol):
    """Anything measured."""

    @property
    def others(self) -> float:
        """Share of the machine's processor time that went to others."""


def rotated(items: Sequence[Item], round_: int) -> Iterator[Item]:
    """All items, beginning with another one in every round: what comes first, or after whom, evens out."""
    if items:
        start = round_ % len(items)
        yield from items[start:]
        yield from items[:start]


def groups(needs: Mapping[str, float], always: Sequence[str], room: float) -> list[list[str]]:
    """Peers in groups that fit the memory together, in the order given.

    Args:
        needs: GiB that each peer takes.
        always: those that are in every group, as all others are compared with them.
        room: GiB that there are.

    Returns:
        groups; one peer beside `always` is a group even if it does not fit, for there is no smaller one.
    """
    constant = [name for name in needs if name in always]
    taken = sum(needs[name] for name in constant)
    found: list[list[str]] = []
    left = 0.0
    for name in needs:
        if name in always:
            continue
        if not found or needs[name] > left:
            found.append(list(constant))
            left = room - taken
        found[-1].append(name)
        left -= needs[name]
    return found or [constant]


@dataclass(frozen=True, slots=True)
class Repeated:
    """Measures again what was disturbed.

    Attributes:
        bound: of the share that others may take.
        attempts: most measurements in all.
    """

    bound: float
    attempts: int

    def measure(self, once: Callable[[int], Measured]) -> Measured:
        """The first measurement within the bound, or the least disturbed one.

        Args:
            once: measures; is given the number of the attempt, from 0.
        """
        made: list[Measured] = []
        for attempt in range(self.attempts):
            made.append(once(attempt))
            if made[-1].others <= self.bound:
                return made[-1]
        return min(made, key=lambda one: one.others)
