"""Numbers for people."""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes with a binary unit, e.g. "1.5 GiB"."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"
