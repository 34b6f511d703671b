"""Stop strings over a stream of text.

Knows text alone: no tokens, no requests. What it answers depends on the text as a whole and never
on how the text was cut into chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["StopMatch", "StopMatcher"]


@dataclass(frozen=True, slots=True)
class StopMatch:
    """What came of one piece of text.

    Attributes:
        text: text that may go out now.
        stop: the stop string that was found, None while there is none.
    """

    text: str
    stop: str | None = None


@dataclass(slots=True)
class _Node:
    """A state of the automaton: a beginning of one or more stop strings."""

    depth: int
    next: dict[str, _Node] = field(default_factory=dict)
    fail: _Node | None = None
    # Longest stop string that ends here.
    stop: str | None = None


class StopMatcher:
    """Finds the first stop string, holding back what may be the beginning of one.

    First is the one whose end comes first in the text; of several that end at the same
    character, the longest, so that as little as possible of it is left over. This is the only rule
    that can be decided the moment a stop string is complete. Cost is O(1) per character, whatever
    the number of stop strings (Aho and Corasick, CACM 18(6), 1975).

    Text that must not be searched (below `min_tokens`) is not fed: the caller lets it pass by itself.

    Args:
        stops: stop strings; none may be empty.
        include: let the stop string itself go out too.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        assert all(stops), "an empty stop string would match everywhere"
        self._include = include
        self._root = _build(stops)
        self._state = self._root
        self._first_chars = frozenset(self._root.next)
        self._held = ""
        self._match: StopMatch | None = None

    @property
    def matched(self) -> bool:
        """True once a stop string was found; nothing goes out afterwards."""
        return self._match is not None

    @property
    def held(self) -> str:
        """Text held back for now."""
        return self._held

    def feed(self, text: str) -> StopMatch:
        """Take the next piece of text; returns what may go out."""
        if self._match is not None:
            return StopMatch("", self._match.stop)
        root = self._root
        state = self._state
        if state is root and self._first_chars.isdisjoint(text):
            return StopMatch(text)
        buffer = self._held + text
        for end, char in enumerate(text, start=len(self._held) + 1):
            while (following := state.next.get(char)) is None and state.fail is not None:
                state = state.fail
            state = following if following is not None else root
            if state.stop is not None:
                keep = end if self._include else end - len(state.stop)
                self._held = ""
                self._match = StopMatch(buffer[:keep], state.stop)
                return self._match
        self._state = state
        cut = len(buffer) - state.depth
        self._held = buffer[cut:]
        return StopMatch(buffer[:cut])

    def finish(self) -> str:
        """The text has ended without a stop string: what was held back goes out."""
        held, self._held = self._held, ""
        self._state = self._root
        return held


def _build(stops: Sequence[str]) -> _Node:
    """The automaton: a trie of the stop strings with failure links."""
    root = _Node(0)
    for stop in stops:
        node = root
        for char in stop:
            node = node.next.setdefault(char, _Node(node.depth + 1))
        node.stop = stop
    queue = deque((char, node, root) for char, node in root.next.items())
    while queue:  # breadth first: a failure link leads to a shallower state, which is complete by then
        char, node, parent = queue.popleft()
        fail = parent.fail
        while fail is not None and char not in fail.next:
            fail = fail.fail
        node.fail = root if fail is None else fail.next[char]
        node.stop = node.stop or node.fail.stop
        queue.extend((char, child, node) for char, child in node.next.items())
    return root
