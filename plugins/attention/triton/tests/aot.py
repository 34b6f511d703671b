"""Compiles kernels for GPUs that need not be there, and says what each takes of them.

A program: tests run it apart, since where Triton's interpreter is on there is nothing to compile. It reads a
JSON list of jobs from stdin and prints a JSON list of results.

    job: {"kernel", "arch", "dtype", "cache", "constants", "warps", "stages"}
    result: {"shared", "registers", "spills", "instructions"}
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from quire_attn_triton.kernels.decode import decode_kernel, reduce_kernel
from quire_attn_triton.kernels.plan import plan_kernel
from quire_attn_triton.kernels.prefill import prefill_kernel
from quire_attn_triton.kernels.write import write_kernel

KERNELS = {
    "decode": decode_kernel,
    "plan": plan_kernel,
    "prefill": prefill_kernel,
    "reduce": reduce_kernel,
    "write": write_kernel,
}
_ELEMENTS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8e4nv"}
_POINTERS = {
    **dict.fromkeys(("partial_sums", "partial_stats", "cos_sin"), "*fp32"),
    **dict.fromkeys(
        ("seq_lens", "query_start", "items", "splits", "chunk_out", "chunk_in", "tiles", "block_table"),
        "*i32",
    ),
    **dict.fromkeys(("positions", "slots"), "*i64"),
}
_FLOATS = ("scale", "soft_cap")
_STRIDES = ("q_stride", "q_head_stride", "k_stride", "k_head_stride", "v_stride", "v_head_stride")
# Pointers into one piece of memory, of which only the first is sure to be aligned.
_UNALIGNED = ("splits", "chunk_out", "chunk_in", "tiles")


def compile_job(job: dict[str, Any]) -> dict[str, int]:
    """Compile one kernel, and read from the machine code what it takes."""
    fn = KERNELS[job["kernel"]]
    compute, cache = _ELEMENTS[job["dtype"]], _ELEMENTS[job["cache"]]
    own = dict.fromkeys(("q", "k", "v", "q_out", "out"), f"*{compute}")
    scales = "*fp32" if job["constants"].get("QUANTIZED") else f"*{cache}"
    own |= {"k_cache": f"*{cache}", "v_cache": f"*{cache}", "k_scale": scales, "v_scale": scales}
    signature: dict[str, str] = {}
    attrs: dict[tuple[int], list[list[Any]]] = {}
    for place, name in enumerate(inspect.signature(fn.fn).parameters):
        if name in job["constants"]:
            signature[name] = "constexpr"
            continue
        signature[name] = own.get(name) or _POINTERS.get(name) or ("fp32" if name in _FLOATS else "i32")
        if (signature[name][0] == "*" and name not in _UNALIGNED) or name in _STRIDES:
            attrs[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=fn, signature=signature, constexprs=job["constants"], attrs=attrs)
    options = {"num_warps": job["warps"], "num_stages": job["stages"]}
    kernel = triton.compile(source, target=GPUTarget("cuda", job["arch"], 32), options=options)
    return {
        "shared": kernel.metadata.shared,
        **_resources(kernel.asm["cubin"]),
        **_instructions(kernel.asm["ptx"]),
    }


def _resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes that it spills to memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return {"registers": found["REG"], "spills": found["STACK"] + found["LOCAL"]}


def _instructions(ptx: str) -> dict[str, int]:
    """How often what makes a kernel fast is in it."""
    return {
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
        "tcgen05": len(re.findall(r"tcgen05\.mma", ptx)),
        "mma": len(re.findall(r"\bmma\.sync", ptx)),
        "wide_copies": len(re.findall(r"cp\.async\.cg\S+ \[[^]]*\], \[[^]]*\], (?:0x10|16)", ptx)),
    }


if __name__ == "__main__":
    print(json.dumps([compile_job(job) for job in json.load(sys.stdin)]))
