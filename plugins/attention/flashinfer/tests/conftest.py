"""A stand-in for FlashInfer, and rigs with a backend on it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from quire.contracts import AttentionNeed
from quire.testing.attention_rig import AttentionRig, Shape
from quire_attn_flashinfer.backend import FlashInferAttention


class PlayedAttention(FlashInferAttention):
    """The backend on the stand-in, which knows any dtype and any size of heads, and needs no GPU."""

    @classmethod
    def reject(cls, need: AttentionNeed) -> str | None:
        return super().reject(need) if need.deterministic else None


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The stand-in, where `import flashinfer` finds it."""
    spec = spec_from_file_location("flashinfer", Path(__file__).with_name("played_flashinfer.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    yield module
    module._Wrapper.made.clear()


@pytest.fixture
def backend_class(played: ModuleType) -> type[FlashInferAttention]:
    """The backend on the stand-in."""
    return PlayedAttention


@pytest.fixture
def make_rig(backend_class: type[FlashInferAttention]) -> Callable[..., AttentionRig]:
    """Makes rigs on the stand-in."""

    def make(shape: Shape, dtype: str = "float32", *, seed: int = 0) -> AttentionRig:
        return AttentionRig(backend_class, shape, device="cpu", dtype=dtype, num_blocks=300, seed=seed)

    return make
