"""Without a GPU kernels are interpreted. Triton settles that when it is first imported."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def _arithmetic_as_on_a_gpu() -> Iterator[None]:
    """The interpreter computes in numpy, which warns of NaN and overflow; a GPU does not."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(autouse=True)
def _patched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patch Triton's language once a launch, not in every function that a kernel calls: twice as fast."""
    from triton.runtime import interpreter

    original = interpreter._patch_lang
    patched: set[str] = set()

    def patch(function: Callable[..., Any]) -> Any:
        modules = {
            name
            for value in function.__globals__.values()
            if inspect.ismodule(value) and (name := value.__name__).startswith("triton.language")
        }
        if modules <= patched:
            return SimpleNamespace(restore=lambda: None)
        before = set(patched)
        patched.update(modules)
        scope = original(function)

        def restore() -> None:
            patched.intersection_update(before)
            scope.restore()

        return SimpleNamespace(restore=restore)

    monkeypatch.setattr(interpreter, "_patch_lang", patch)
