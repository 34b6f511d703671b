"""Safetensors files written byte by byte, so that they can lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write_raw(tmp_path: Path) -> Callable[..., Path]:
    """`write_raw(header, data=b"", name=, length=)`: a file with this header (bytes or a mapping)."""

    def write(
        header: dict[str, Any] | bytes,
        data: bytes = b"",
        *,
        name: str = "model.safetensors",
        length: int | None = None,
    ) -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
        return path

    return write
