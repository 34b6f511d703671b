"""What the supervisor tells an API process, and what that tells it back. Plain data over pipes."""

from __future__ import annotations

from typing import Any

import msgspec

from quire.plugin_plan import PlannedPlugin

LISTENING = b"L"
"""What an API process writes to its report pipe once it serves."""


class ApiLaunch(msgspec.Struct, frozen=True):
    """What an API process is told on its standard input, behind its length in 4 bytes.

    Attributes:
        settings: the `serve:` section, its secrets in the clear.
        endpoint: the engine's.
        index: number of this process among the API processes.
        routes: front ends to mount.
    """

    settings: dict[str, Any]
    endpoint: str
    index: int
    routes: list[PlannedPlugin]
