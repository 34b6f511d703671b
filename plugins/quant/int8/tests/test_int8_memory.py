"""Loading quantizes part by part: at no time are the float weights in memory beside the codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

LAYERS, OUTPUTS, INPUTS = 24, 2048, 1024
FLOAT_BYTES = LAYERS * OUTPUTS * INPUTS * 2

SCRIPT = """
import sys
from pathlib import Path

import torch

from quire.contracts import (
    KernelsInit, KernelsNeed, LinearPart, LinearSpec, QuantizationInit, QuantizationNeed, Span, WeightMapping
)
from quire.ops import Kernels
from quire.weights.checkpoint import Checkpoint
from quire.weights.loader import load
from quire_quant_int8.quantization import Int8

def peak():
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

layers, outputs, inputs = map(int, sys.argv[2:])
kernels = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="bfloat16"), device="cpu"))

def loaded(directory, layers, outputs, inputs):
    checkpoint = Checkpoint(directory)
    quantization = Int8(
        QuantizationInit(
            need=QuantizationNeed(device="cpu", dtype="bfloat16"),
            headers=checkpoint.headers(),
            kernels=kernels,
            device="cpu",
        )
    )
    methods = []
    for index in range(layers):
        part = LinearPart(f"layers.{index}.up_proj", Span.whole(outputs))
        methods += quantization.linear(LinearSpec(name=part.name, parts=(part,), inp=Span.whole(inputs)))
    load([weight for method in methods for weight in method.create_weights()], checkpoint, WeightMapping())
    for method in methods:
        method.finish()
    return methods

loaded(Path(sys.argv[1]) / "first", 1, 8, 8)  # for the imports; a large one would leave memory behind
before = peak()
methods = loaded(Path(sys.argv[1]), layers, outputs, inputs)
print(peak() - before, sum(method.nbytes() for method in methods))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_the_peak_is_the_codes_and_little_more(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for shard in range(3):
        tensors = {
            f"layers.{index}.up_proj.weight": torch.randn(OUTPUTS, INPUTS, generator=generator).bfloat16()
            for index in range(shard, LAYERS, 3)
        }
        save_file(tensors, tmp_path / f"model-{shard}.safetensors")
    (tmp_path / "first").mkdir()
    save_file({"layers.0.up_proj.weight": torch.ones(8, 8)}, tmp_path / "first/model.safetensors")
    arguments = [str(tmp_path), *map(str, (LAYERS, OUTPUTS, INPUTS))]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, *arguments], check=True, capture_output=True, text=True
    )
    rise, held = map(int, run.stdout.split())
    assert held == FLOAT_BYTES // 2 + LAYERS * OUTPUTS * 4
    one_layer = FLOAT_BYTES // LAYERS
    # One part as read, and as large as two of it each: in fp32, its magnitudes, its quotients.
    assert held < rise < held + 7 * one_layer < FLOAT_BYTES
