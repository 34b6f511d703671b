"""Every kernel compiles for the GPUs it is meant for, without one, and fits them."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import quire_kernels_triton

SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that a block may have (CUDA programming guide, compute capabilities)."""

REGISTERS_OF_A_BLOCK = 64 * 1024

Report = list[dict[str, Any]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What the script found, in a process of its own: in this one kernels may be interpreted."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    script = Path(__file__).with_name("aot_compile_triton_kernels.py")
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_is_compiled_for_every_target(report: Report) -> None:
    named = set()
    for module in pkgutil.iter_modules(quire_kernels_triton.__path__):
        found = importlib.import_module(f"quire_kernels_triton.{module.name}")
        named |= {name for name in vars(found) if name.endswith("_kernel")}
    for target in SHARED:
        assert {one["kernel"] for one in report if one["target"] == target} == named


def test_kernels_fit_the_device_and_spill_nothing(report: Report) -> None:
    for one in report:
        assert one["spilled"] == 0, one
        assert one["shared"] <= SHARED[one["target"]], one
        # Registers are given to a warp eight to a thread at a time.
        assert one["warps"] * 32 * -(-one["registers"] // 8) * 8 <= REGISTERS_OF_A_BLOCK, one


def test_words_are_copied_by_sixteen_bytes_and_met_from_registers(report: Report) -> None:
    """On Hopper too: its own matrix instruction would take unpacked weights from shared memory."""
    products = [one for one in report if one["kernel"] == "wna16_kernel" and one["signature"]["x"] != "*fp32"]
    assert products
    for one in products:
        if one["target"] in (80, 90):
            assert one["mma"] > 0, one
        assert one["wide_copies"] > 0, one
