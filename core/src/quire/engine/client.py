"""How a front end talks to an engine: one interface, wherever the engine runs."""

from __future__ import annotations

from typing import Protocol

from quire.engine.core import EngineCore
from quire.engine.info import EngineStats
from quire.errors import EngineError
from quire.request import EngineRequest, StepOutput


class EngineClient(Protocol):
    """A front end's view of an engine. Used by one thread."""

    def add(self, request: EngineRequest) -> None:
        """Queue a request; raises InvalidRequestError if it can never run."""

    def abort(self, request_id: str, index: int | None = None) -> list[StepOutput]:
        """End a request, or one completion of it; what is returned ends it for the caller."""

    def outputs(self) -> list[StepOutput]:
        """News since the last call; waits until there is some, unless nothing is under way."""

    def has_unfinished(self) -> bool:
        """Whether any request waits or runs."""

    def reset_prefix_cache(self) -> None:
        """Forget cached prefixes; running requests are not affected."""

    def stats(self) -> EngineStats:
        """Counts of requests, blocks, tokens and steps."""

    def shutdown(self) -> None:
        """Stop the engine and free its memory."""


class InProcessClient:
    """The engine core in the caller's own process: asking for news runs a step."""

    def __init__(self, core: EngineCore) -> None:
        self._core: EngineCore | None = core

    @property
    def core(self) -> EngineCore:
        """The engine core.

        Raises:
            EngineError: after `shutdown`.
        """
        if self._core is None:
            raise EngineError("This engine was shut down. Make a new one to go on.")
        return self._core

    def add(self, request: EngineRequest) -> None:
        """See `EngineClient`."""
        self.core.add(request)

    def abort(self, request_id: str, index: int | None = None) -> list[StepOutput]:
        """See `EngineClient`."""
        return self.core.abort(request_id, index)

    def outputs(self) -> list[StepOutput]:
        """See `EngineClient`."""
        return self.core.step() if self.core.has_unfinished() else []

    def has_unfinished(self) -> bool:
        """See `EngineClient`."""
        return self.core.has_unfinished()

    def reset_prefix_cache(self) -> None:
        """See `EngineClient`."""
        self.core.reset_prefix_cache()

    def stats(self) -> EngineStats:
        """See `EngineClient`."""
        return self.core.stats()

    def shutdown(self) -> None:
        """See `EngineClient`; a second call does nothing."""
        if self._core is not None:
            self._core.shutdown()
            self._core = None
