"""Compile, without a GPU, every kernel as the plugin launches it. A program of its own: its Triton compiles.

    python aot_compile_triton_kernels.py > report.jsonl

Operations run on tensors of the host with launches caught on their way to the driver, so what is
compiled is what they launch: signature, constants, warps, and what Triton knows of alignment. One line per
kernel, configuration and target: registers, bytes of shared memory, bytes spilled, and how many instructions
there are for matrices of 16 rows, and for copies of 16 bytes to shared memory.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction, mangle_type

from quire.contracts import KernelsInit, KernelsNeed, QuantizedWeight
from quire.ops.slots import SlotShapes
from quire_kernels_triton.kernels import TritonKernels

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
OTHERS = (80, 100)
"""Targets for which one configuration of each kernel is compiled; all are for sm_90."""

Launch = tuple[Any, dict[str, str], dict[str, Any], dict[int, bool], dict[str, Any]]


def main() -> None:
    launches: dict[str, Launch] = {}

    def catch(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        one = _described(self, args, options)
        launches.setdefault(repr((self.__name__, *one[1:])), one)

    JITFunction.run = catch
    _launch_everything()
    compiled: set[str] = set()
    for launch in launches.values():
        name = launch[0].__name__
        for capability in (90,) if name in compiled else (90, *OTHERS):
            print(json.dumps(_compile(launch, capability)), flush=True)
        compiled.add(name)


def _launch_everything() -> None:
    kernels = TritonKernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="bfloat16"), device="cpu"))
    for dtype in DTYPES:
        for width in (64, 128, 2048, 4096, 8192, 16384) if dtype == DTYPES[0] else (4096,):
            x, weight = torch.zeros(3, width, dtype=dtype), torch.zeros(width, dtype=dtype)
            kernels.rms_norm(x, weight, 1e-5)
            kernels.add_rms_norm(x, x, weight, 1e-5)
        heads = torch.zeros(3, 48 * 128, dtype=dtype).view(3, 48, 128)
        kernels.rms_norm(heads[:, :32], torch.zeros(128, dtype=dtype), 1e-5)
        for interleaved in (False, True):
            angles, places = torch.zeros(9, 128), torch.zeros(3, dtype=torch.int64)
            kernels.rotary(heads[:, :32], heads[:, 32:40], angles, places, interleaved)
        kernels.silu_and_mul(torch.zeros(3, 28672, dtype=dtype))
        kernels.gelu_and_mul(torch.zeros(3, 28672, dtype=dtype))
        kernels.gelu_and_mul(torch.zeros(3, 28672, dtype=dtype), "tanh")
        kernels.embedding(torch.zeros(3, dtype=torch.int64), torch.zeros(9, 4096, dtype=dtype))
        _sample(kernels, dtype, 3, 128256)
    _multiply(kernels)
    # Numbers of 1 become constants: one row, and a vocabulary of one chunk.
    alone, weight = torch.zeros(1, 4096, dtype=DTYPES[0]), torch.zeros(4096, dtype=DTYPES[0])
    kernels.add_rms_norm(alone, alone, weight, 1e-5)
    _sample(kernels, torch.float32, 1, 463)


def _multiply(kernels: TritonKernels) -> None:
    """Rows of the tables, split along K and not; zero points of each kind; groups of a part of a tile."""
    launches = [
        # dtype, rows, bits, K, groups, zeros, act-order
        (torch.bfloat16, 1, 4, 4096, 32, None, False),
        (torch.bfloat16, 1, 4, 256, 2, torch.int32, False),
        (torch.float16, 16, 4, 4096, 32, torch.int32, True),
        (torch.bfloat16, 17, 4, 4096, 32, None, False),
        (torch.bfloat16, 64, 4, 4096, 32, torch.int32, False),
        (torch.float16, 64, 8, 4096, 32, None, False),
        (torch.float16, 1, 8, 4096, 128, torch.int32, False),
        (torch.bfloat16, 1, 4, 4096, 64, torch.float32, False),
        (torch.float32, 3, 4, 4096, 32, torch.int32, False),
        (torch.bfloat16, 65, 4, 4096, 32, None, False),
        (torch.float16, 65, 8, 4096, 32, torch.int32, True),
    ]
    for dtype, rows, bits, inputs, groups, zeros, ordered in launches:
        index = torch.arange(inputs, dtype=torch.int32) % groups if ordered else None
        weight = QuantizedWeight(
            codes=torch.zeros(inputs, 256, dtype=torch.uint8),
            bits=bits,
            scales=torch.zeros(groups, 256, dtype=torch.float16),
            zeros=torch.full((groups, 256), 1 << (bits - 1))
            if zeros is None
            else torch.full((groups, 256), 2.5).to(zeros),
            group_index=index,
            bias=torch.zeros(256, dtype=dtype) if rows == 1 else None,
        )
        kernels.wna16_linear(torch.zeros(rows, inputs, dtype=dtype), kernels.pack_wna16(weight))
    for activation, dtype, rows in (
        ("int8_per_token", torch.bfloat16, 1),
        ("int8_per_token", torch.bfloat16, 64),
        ("int8_per_token", torch.float16, 129),
        ("fp8_per_token", torch.bfloat16, 1),
    ):
        weight = QuantizedWeight(
            codes=torch.zeros(4096, 256, dtype=torch.int8),
            bits=8,
            scales=torch.zeros(1, 256),
            activation=activation,  # type: ignore[arg-type] # a plain string
        )
        kernels.w8a8_linear(torch.zeros(rows, 4096, dtype=dtype), kernels.pack_w8a8(weight))


def _sample(kernels: TritonKernels, dtype: torch.dtype, rows: int, vocab: int) -> None:
    logits = torch.zeros(rows, vocab, dtype=dtype)
    ids, numbers = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.float64)
    by, least = torch.full((rows,), 0.5), numbers.float()
    some, part = torch.full((rows,), 40), torch.full((rows,), 0.5, dtype=torch.float64)
    kernels.peak(logits)
    masks = torch.zeros(rows, (vocab + 31) // 32, dtype=torch.int32)
    kernels.apply_token_bitmask(logits, masks, list(range(rows)))
    kernels.apply_token_bitmask(logits, masks[:-1], list(range(rows - 1)))
    kernels.draw_from(logits, numbers)
    kernels.draw_coupled(logits, torch.zeros(rows, 2, dtype=torch.int64))
    kernels.apply_temperature(logits, by)
    kernels.log_softmax_gather(logits, ids, 5)
    for top_k, top_p in ((None, None), (some, None), (None, part), (some, part)):
        shapes = SlotShapes(greedy=ids == 0, temperature=by, margin=least, top_k=top_k, top_p=top_p, seed=ids)
        for coupled in (False, True):
            kernels.sample_slots(logits, ids, ids, shapes, coupled=coupled)
    if dtype == torch.float32:
        for top_k, top_p in ((some, part * 2), (some * vocab, part), (some, part)):
            kernels.apply_top_k_top_p(logits, top_k, top_p)
        kernels.apply_min_p(logits, part)
        kernels.apply_penalties(logits, ids, ids, by, by, by, by)
        kernels.take_inputs(ids, ids, ids, ids, ids)
        kernels.record_sampled(ids, ids, ids, ids)


def _described(kernel: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Launch:
    """What Triton would make of a launch: ints of 1 and None are constants, others may be multiples of 16."""
    names = [one.name for one in kernel.params]
    given = {**dict(zip(names, args, strict=False)), **options}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    aligned: dict[int, bool] = {}
    for place, one in enumerate(kernel.params):
        value = given.pop(one.name)
        if one.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[one.name], constants[one.name] = "constexpr", value
            continue
        signature[one.name] = mangle_type(value)
        if isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0):
            aligned[place] = True
    return kernel, signature, constants, aligned, given


def _compile(launch: Launch, capability: int) -> dict[str, Any]:
    kernel, signature, constants, aligned, options = launch
    attributes = {(place,): [["tt.divisibility", 16]] for place in aligned}
    source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    usage = _usage(made.asm["cubin"])
    warps = made.metadata.num_warps
    return {
        "kernel": kernel.__name__,
        "target": capability,
        "constants": {name: repr(value) for name, value in constants.items()},
        "signature": {name: kind for name, kind in signature.items() if kind.startswith("*")},
        "warps": warps,
        "shared": made.metadata.shared,
        "mma": len(re.findall(r"\bmma\.sync", made.asm["ptx"])),
        "wide_copies": len(re.findall(r"cp\.async\.cg\.\S+ \[.*\], \[.*\], 0x10", made.asm["ptx"])),
        **usage,
    }


def _usage(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of its stack and of local memory: what was spilled."""
    tool = next(Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        dump = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = dict(_numbers(dump))
    return {"registers": found["REG"], "spilled": found["STACK"] + found["LOCAL"]}


def _numbers(dump: str) -> Iterator[tuple[str, int]]:
    for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", dump):
        yield name, int(number)


if __name__ == "__main__":
    main()
