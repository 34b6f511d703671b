"""Begins to make the environments of the clients that are asked for, while the first ones are at work."""

from __future__ import annotations

import pytest

from .environments import REQUIREMENTS, begin


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly:
        given = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
        asked = [str(one["client"]) for one in given if "client" in one]
        begin([name for name in REQUIREMENTS if name in asked])
