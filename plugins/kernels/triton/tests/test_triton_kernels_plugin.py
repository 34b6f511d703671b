"""The plugin as it is described, and its reasons where it cannot serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import quire_kernels_triton
from quire.contracts import KernelsNeed
from quire_kernels_triton import availability
from quire_kernels_triton.availability import unavailable
from quire_kernels_triton.kernels import TritonKernels

CUDA, CPU = (KernelsNeed(device=device, dtype="bfloat16") for device in ("cuda", "cpu"))


def test_it_is_described_without_torch_or_triton() -> None:
    (spec,) = quire_kernels_triton.quire_kernels()
    assert (spec.name, spec.devices) == ("triton", frozenset({"cuda"}))
    code = "import quire_kernels_triton, sys; print('torch' in sys.modules, 'triton' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_without_triton_the_reason_says_so() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "from quire.contracts import KernelsNeed\n"
        "from quire_kernels_triton.kernels import TritonKernels\n"
        "print(TritonKernels.reject(KernelsNeed(device='cuda', dtype='bfloat16')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Triton is not installed")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_interpreter_takes_a_cpu_alone() -> None:
    assert TritonKernels.reject(CPU) is None
    assert "not on cuda" in str(TritonKernels.reject(CUDA))


def test_a_machine_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "interpreted", lambda: False)
    assert unavailable("cpu") == "runs on cuda, not on cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert unavailable("cuda") == "there is no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for found, reason in (((7, 5), "needs compute capability 8.0; this GPU has 7.5"), ((9, 0), None)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=found: found)
        assert unavailable("cuda") == reason


def test_a_deterministic_need_is_refused() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    need = KernelsNeed(device=device, dtype="bfloat16", deterministic=True)
    assert "is not deterministic" in str(TritonKernels.reject(need))


def test_no_kernel_module_is_imported_where_a_reason_is_made() -> None:
    """Every module that holds kernels is behind the guard in `kernels` and `sampling`."""
    for path in Path(availability.__file__).parent.glob("*.py"):
        first = path.read_text().split("if TYPE_CHECKING or INSTALLED")[0]
        if path.stem in (
            "__init__",
            "availability",
            "kernels",
            "sampling",
            "quantized",
            "words",
            "product_tables",
            "rows",
        ):
            assert "\nimport triton" not in first, path.name
