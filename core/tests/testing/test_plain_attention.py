"""What other suites measure against must fulfil the contract itself."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quire.contracts import AttentionBackend
from quire.testing.attention import AttentionSuite
from quire.testing.plain_attention import PlainAttention


class TestPlainAttention(AttentionSuite):
    dtypes: Sequence[str] = ("float32", "bfloat16")

    @pytest.fixture
    def backend_class(self) -> type[AttentionBackend]:
        return PlainAttention
