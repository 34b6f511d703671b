"""What a plugin is built on: whether such distributions are installed, told without importing them.

Knows names and versions alone. Never imports what it asks for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

_RELEASE = re.compile(r"\d+(?:\.\d+)*")


def lacking(requirements: Iterable[str]) -> str | None:
    """Which of them is not there, and how it would be installed; None if all are.

    Args:
        requirements: as in `quire.contracts.PluginSpec.requires`.
    """
    for requirement in requirements:
        name, _, oldest = requirement.partition(">=")
        try:
            found = version(name)
        except PackageNotFoundError:
            return f"needs {name}, which is not installed: pip install '{requirement}'"
        if oldest and _release(found) < _release(oldest):
            return f"needs {name} {oldest} or newer, not {found}: pip install --upgrade '{requirement}'"
    return None


def _release(number: str) -> tuple[int, ...]:
    """The numbers of a version, without what follows them: 0.6.1 of 0.6.1rc2."""
    found = _RELEASE.match(number)
    return () if found is None else tuple(int(part) for part in found.group().split("."))
