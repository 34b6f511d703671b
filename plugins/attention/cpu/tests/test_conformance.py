"""The backend passes the conformance suite on every instruction set that this processor has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quire.contracts import AttentionBackend, AttentionInit
from quire.testing.attention import AttentionSuite
from quire_attn_cpu.backend import CpuAttention
from quire_attn_cpu.options import CpuAttentionOptions
from quire_native_cpu import available


def on(isa: str) -> type[CpuAttention]:
    class OnInstructionSet(CpuAttention):
        def __init__(self, init: AttentionInit) -> None:
            super().__init__(replace(init, options=CpuAttentionOptions(isa=isa)))

    return OnInstructionSet


class TestCpuAttention(AttentionSuite):
    @pytest.fixture(params=available())
    def backend_class(self, request: pytest.FixtureRequest) -> type[AttentionBackend]:
        return on(request.param)
