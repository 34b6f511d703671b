"""What parsers of a model's text have in common: the events they give, and how a chat template chooses them.

A parser is an incremental state machine: `feed(text) -> events`, `finish() -> events`. Whatever the pieces in
which a text is fed, the events are the same once neighbouring texts are joined. No text is lost:
what turns out to be no call is content. Knows text; knows no tokens, no request and no dialect.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from quire.contracts.base import Need, PluginSpec

__all__ = [
    "CallArguments",
    "CallBegun",
    "CallBroken",
    "CallEnded",
    "Content",
    "Event",
    "Reasoning",
    "TemplateNeed",
    "TemplateSpec",
]


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text that the model thinks aloud."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of the tool `name` begins; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the arguments' JSON, as the model wrote it."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is complete: the joined arguments are a JSON object."""


@dataclass(frozen=True, slots=True)
class CallBroken:
    """The call that had begun is none: what stands in its place does not go on as a call does.

    Attributes:
        text: all of its text, markers and arguments included. It is content.
    """

    text: str


Event: TypeAlias = Content | Reasoning | CallBegun | CallArguments | CallEnded | CallBroken


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateNeed(Need):
    """What the engine asks of a parser.

    Attributes:
        template: the model's chat templates, one after the other; empty if there is none, None when the
            parser was asked for by name, so that the template decides nothing.
    """

    template: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateSpec(PluginSpec):
    """A spec that is chosen by the model's chat template, or by name.

    Attributes:
        markers: what the template must contain, all of it. Without any the plugin is used by name only.
        foreign: what it must not contain: signs of another form that shares the markers.
    """

    markers: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    def reject(self, need: Need) -> str | None:
        """Refuses a template without the markers."""
        if not isinstance(need, TemplateNeed) or need.template is None:
            return None
        if not self.markers:
            return "is only used when it is asked for by name"
        for marker in self.markers:
            if marker not in need.template:
                return f"the chat template has no {marker!r}"
        for sign in self.foreign:
            if sign in need.template:
                return f"the chat template has {sign!r}, which is another form"
        return None
