"""A server for the length of a batch: the model's own, in this process' care."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from quire.config import EngineConfig
from quire.errors import ConfigError


def open_server(config: EngineConfig) -> AbstractAsyncContextManager[str]:
    """Serve a model privately; the context's value is its base URL.

    Raises:
        ConfigError: always.
    """
    raise ConfigError(
        f"The model {config.model!r} cannot be served within run-batch: start `quire serve {config.model}` "
        "and give its address with --url."
    )
