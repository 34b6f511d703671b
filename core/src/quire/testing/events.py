"""Events of parsers, joined: what does not depend on how a text was cut."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from quire.contracts import CallArguments, Content, Event, Reasoning

__all__ = ["join_events"]

_TEXTS = (Content, Reasoning, CallArguments)


def join_events(events: Iterable[Event]) -> list[Event]:
    """The same events with neighbouring pieces of one text made one."""
    joined: list[Event] = []
    for kind, run in groupby(events, type):
        if issubclass(kind, _TEXTS):
            joined.append(kind("".join(event.text for event in run if isinstance(event, _TEXTS))))
        else:
            joined += run
    return joined
