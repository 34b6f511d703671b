"""The backend passes the conformance suite on a stand-in for FlashInfer."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quire.contracts import AttentionBackend
from quire.testing.attention import AttentionSuite


class TestFlashInferAttention(AttentionSuite):
    dtypes: Sequence[str] = ("float32", "float16")

    @pytest.fixture
    def backend_class(self, backend_class: type[AttentionBackend]) -> type[AttentionBackend]:
        return backend_class
