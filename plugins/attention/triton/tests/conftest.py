"""Without a GPU the kernels run in Triton's interpreter; on one they are compiled.

Triton decides when it is imported, so it is told before: conftest files are read before any test module is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from quire.contracts import Rope
from quire.testing.attention_rig import AttentionRig, Shape
from quire.testing.triton_interpreter import brisk_interpreter
from quire_attn_triton.backend import TritonAttention


@pytest.fixture(autouse=True)
def _briskly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with brisk_interpreter(monkeypatch):
        yield


@pytest.fixture(scope="session")
def device() -> str:
    """Torch device string the kernels run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def make_rig(device: str) -> Callable[..., AttentionRig]:
    """Makes rigs with rotary tables for long requests."""

    def make(
        shape: Shape,
        dtype: str = "float32",
        *,
        backend: type[TritonAttention] = TritonAttention,
        seed: int = 0,
    ) -> AttentionRig:
        rig = AttentionRig(backend, shape, device=device, dtype=dtype, num_blocks=300, seed=seed)
        angles = torch.randn(4096, shape.head_dim // 2, generator=torch.Generator().manual_seed(0))
        rig.rope = Rope(torch.cat((angles.cos(), angles.sin()), dim=-1).to(device))
        return rig

    return make
