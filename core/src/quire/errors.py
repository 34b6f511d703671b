"""One small exception tree; every error a user can meet is in it.

    QuireError
    ├── ConfigError                 a setting is unknown, wrong, or not built yet
    ├── InvalidRequestError         a request or sampling parameter that can never be served
    ├── PluginError                 a plugin is missing, duplicated, incompatible, or refused
    ├── ModelError                  about a model's files
    │   ├── ModelNotFoundError      no source knows the name
    │   ├── UnsupportedModelError   its architecture or quantization has no plugin
    │   └── CheckpointError         a file is missing, truncated, or lies about its content
    ├── CapacityError               memory does not suffice; names what would
    └── EngineError                 the engine failed while running
        ├── OverloadedError         its queue is full; later there will be room
        └── RequestFailedError      one request failed; the others go on

A message names the thing, the value and what would do. `ConfigError` and
`InvalidRequestError` are also `ValueError`s, so that callers who know nothing
of Quire catch what they expect.
"""

from __future__ import annotations

__all__ = [
    "CapacityError",
    "CheckpointError",
    "ConfigError",
    "EngineError",
    "InvalidRequestError",
    "ModelError",
    "ModelNotFoundError",
    "OverloadedError",
    "PluginError",
    "QuireError",
    "RequestFailedError",
    "UnsupportedModelError",
]


class QuireError(Exception):
    """Root of everything Quire raises on purpose."""


class ConfigError(QuireError, ValueError):
    """A setting is unknown, has a wrong value, or names what is not built yet."""


class InvalidRequestError(QuireError, ValueError):
    """A request or a sampling parameter can never be served as it stands.

    Attributes:
        field: name of the offending parameter, or None when it is the request as a whole.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class PluginError(QuireError):
    """A plugin is missing, named twice, built for another api, or refused the need."""


class ModelError(QuireError):
    """Something is wrong with a model's files."""


class ModelNotFoundError(ModelError):
    """No model source knows the name."""


class UnsupportedModelError(ModelError):
    """No installed plugin implements the model's architecture or weight format."""


class CheckpointError(ModelError):
    """A checkpoint file is missing, truncated, unsafe, or contradicts its own header."""


class CapacityError(QuireError):
    """Memory does not suffice; the message names the largest value that would work."""


class EngineError(QuireError):
    """The engine failed while running."""


class OverloadedError(EngineError):
    """As many requests wait as may wait; one more was turned away."""


class RequestFailedError(EngineError):
    """One request failed inside the engine; the others were not affected."""

    def __init__(self, message: str, *, request_id: str) -> None:
        super().__init__(message)
        self.request_id = request_id
