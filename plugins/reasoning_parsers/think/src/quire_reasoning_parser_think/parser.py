"""`ThinkParser`: thinking between two tags, at the beginning of the answer.

The template may have opened it (the prompt ends with the opening tag), or closed it (the prompt ends with the
closing one); else the model opens it itself, or does not think.
"""

from __future__ import annotations

from typing import ClassVar

from quire.contracts import Content, Event, Reasoning, ReasoningParser, ReasoningParserInit
from quire_reasoning_parser_think.options import ThinkOptions


class ThinkParser(ReasoningParser):
    """See the module.

    Attributes:
        always: thinking begins with the answer, with or without an opening tag.
    """

    always: ClassVar[bool] = False

    def __init__(self, init: ReasoningParserInit) -> None:
        super().__init__(init)
        options = init.options if isinstance(init.options, ThinkOptions) else ThinkOptions()
        self._opening, self._closing = options.opening, options.closing
        self.special_tokens = options.special_tokens
        self._held = ""  # the beginning of a tag
        self._lead: list[str] = []  # white space before anything else
        self._space: list[str] = []  # white space in the thinking that may be its last
        begun = self._begun(init)
        self._open = self.always if begun is None else begun
        # What the first words may be: an opening tag only where the prompt has none.
        self._state = "start" if begun is None else "inside" if begun else "content"
        self._fresh = True  # nothing but white space since the last tag

    @property
    def inside(self) -> bool:
        """Whether the thinking is open."""
        return self._state == "inside" or (self._state == "start" and self._open)

    @property
    def end(self) -> str:
        """The closing tag."""
        return self._closing

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of the text."""
        events: list[Event] = []
        if self._state == "start":
            text = self._start(text, events)
        if self._state == "inside":
            text = self._inside(text, events)
        if self._state == "after":
            text = text.lstrip()
            if text:
                self._state = "content"
        if self._state == "content" and text:
            events.append(Content(text))
        return events

    def finish(self) -> list[Event]:
        """The text has ended: what is held back is no tag."""
        held, self._held = self._held, ""
        if self._state == "start":
            if not self._open:
                rest = "".join(self._lead) + held
                return [Content(rest)] if rest else []
            self._state = "inside"
        if self._state != "inside":
            return []
        rest = "".join(self._space) + held
        self._space = []
        if self._fresh:
            rest = rest.lstrip()
        return [Reasoning(rest)] if rest else []

    def _begun(self, init: ReasoningParserInit) -> bool | None:
        """Whether thinking is open (True) or over (False) where the answer begins; None: not begun.

        Only the prompt's end tells: a tag further up may be anybody's.
        """
        if init.continued is not None:
            opened = init.continued.rfind(self._opening)
            closed = init.continued.rfind(self._closing)
            if max(opened, closed) >= 0:
                return opened > closed
        end = init.prompt[-256:].rstrip()
        if end.endswith(self._closing):
            return False
        if end.endswith(self._opening):
            return True
        # An answer that goes on without a tag in it is past its thinking.
        return False if init.continued else None

    def _start(self, text: str, events: list[Event]) -> str:
        """The first words: an opening tag or none. Returns what is to be read on."""
        if not self._held:
            words = text.lstrip()
            self._lead.append(text[: len(text) - len(words)])
            text = words
        text = self._held + text
        if len(text) < len(self._opening) and self._opening.startswith(text):
            self._held = text
            return ""
        self._held = ""
        if text.startswith(self._opening):
            self._state = "inside"
            return text[len(self._opening) :]
        self._state = "inside" if self._open else "content"
        return text if self._open else "".join(self._lead) + text

    def _inside(self, text: str, events: list[Event]) -> str:
        """Thinking, up to the closing tag. Returns what follows it."""
        text = self._held + text
        self._held = ""
        found = text.find(self._closing)
        if found >= 0:
            self._think(text[:found], events)
            self._space = []
            self._state = "after"
            return text[found + len(self._closing) :]
        keep = _overlap(text, self._closing)
        self._think(text[: len(text) - keep], events)
        self._held = text[len(text) - keep :]
        return ""

    def _think(self, text: str, events: list[Event]) -> None:
        """Give thinking; white space at its end waits for what follows, and at its beginning is none."""
        body = text.rstrip()
        if body:
            words = "".join(self._space) + body
            events.append(Reasoning(words.lstrip() if self._fresh else words))
            self._space = []
            self._fresh = False
        if len(body) < len(text):
            self._space.append(text[len(body) :])


class OpenThinkParser(ThinkParser):
    """Thinking from the first word on: templates of DeepSeek R1's first distillations do not open it."""

    always = True


def _overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` are a beginning of `mark`, but not all of it."""
    for size in range(min(len(mark) - 1, len(text)), 0, -1):
        if text.endswith(mark[:size]):
            return size
    return 0
