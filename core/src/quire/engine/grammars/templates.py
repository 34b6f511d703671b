"""Matchers that have not begun, made in a thread and kept for requests to come.

Knows artefacts and the backends that read them; knows no request, no output and no mask.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from quire.contracts.grammar import Grammar, Matcher
from quire.request import CompiledGrammar

__all__ = ["Templates"]

_KEPT, _KEPT_BYTES = 256, 1 << 26
"""Artefacts whose matchers are kept for requests to come. Their number says more than their bytes where an
artefact is a text and all that follows from it lies in its matcher."""


class Templates:
    """Matchers by what they were made of; the oldest go first."""

    def __init__(self, loaded: Callable[[str], Grammar]) -> None:
        """Nothing is made before it is asked for.

        Args:
            loaded: the backend of a name; called in a thread.
        """
        self._loaded = loaded
        self._templates: OrderedDict[CompiledGrammar, Future[Matcher]] = OrderedDict()
        self._nbytes = 0
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._templates)

    def of(self, grammar: CompiledGrammar) -> Future[Matcher]:
        """A matcher of it that has not begun; to be forked, never moved."""
        template = self._templates.get(grammar)
        if template is not None and not (template.done() and template.exception()):
            self._templates.move_to_end(grammar)
            return template
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="quire-matchers")
        if template is not None:  # it failed, and is made anew
            del self._templates[grammar]
            self._nbytes -= len(grammar.data)
        template = self._thread.submit(lambda: self._loaded(grammar.backend).matcher(grammar.data))
        self._templates[grammar] = template
        self._nbytes += len(grammar.data)
        while len(self._templates) > _KEPT or (self._nbytes > _KEPT_BYTES and len(self._templates) > 1):
            self._nbytes -= len(self._templates.popitem(last=False)[0].data)
        return template

    def shutdown(self) -> None:
        """Let go of the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
