"""What Quire reaches on a GPU, beside what the GPU reaches, in under eight minutes.

    python bench/gpu.py [--only decode,attention] [--json FILE]
    python bench/gpu.py --device cpu --toy

Copy bandwidth and bf16 GEMM rate come first, and all else is held against them: decode steps of models in
the shapes of Llama-3.1-8B and Llama-3.2-1B (random weights, drawn on the device), attention alone beside
PyTorch's flash kernel, products with 4-bit weights beside bf16, the device's idle time between steps,
prompts, 256 ragged requests, and transformers on the same weights. Every group of parts has a process of its
own: one that breaks or takes too long is reported and ended, and the others go on. The report is Markdown, on
standard output. Exit status: 0 all was measured, whatever the aims say; 1 a part failed; 2 it cannot run.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gpu_bench import child
from gpu_bench.groups import PARTS, groups
from gpu_bench.limits import limits_of
from gpu_bench.parent import Start, run_group, start_process
from gpu_bench.record import PartRecord, Report
from gpu_bench.report import report_text

DISTRIBUTIONS = ("quire", "quire-attn-triton", "quire-kernels-triton", "torch", "triton", "transformers")
NO_GPU = (
    "bench/gpu.py needs a CUDA GPU, and PyTorch sees none; `--device cpu --toy` tries the benchmark itself."
)


def names(text: str) -> tuple[str, ...]:
    """Parts, comma-separated.

    Raises:
        argparse.ArgumentTypeError: there is no such part.
    """
    found = tuple(one.strip() for one in text.split(",") if one.strip())
    for one in found:
        if one not in PARTS:
            raise argparse.ArgumentTypeError(f"unknown part {one!r}; choose of {', '.join(PARTS)}")
    return found


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--only", type=names, default=PARTS, help=f"parts of {', '.join(PARTS)}; limits always")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--toy", action="store_true", help="tiny shapes: the figures mean nothing")
    made.add_argument("--json", type=Path, help="also write the result here")
    made.add_argument("--child", type=child.Task.model_validate_json, help=argparse.SUPPRESS)
    return made


def describe(device: str) -> str:
    """The device, for the report."""
    import torch

    if device == "cpu":
        return "CPU (the figures mean nothing)"
    found = torch.cuda.get_device_properties(0)
    memory, cache = found.total_memory / 2**30, found.L2_cache_size / 2**20
    return f"{found.name}, {memory:.0f} GiB, {cache:.0f} MiB of L2"


def versions() -> dict[str, str]:
    """Of what takes part, as far as it is installed."""
    found = {"python": sys.version.split()[0]}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def measure(args: argparse.Namespace, command: str, start: Start) -> Report:
    """All groups, one after the other; limits first."""
    parts: list[PartRecord] = []
    limits = None
    with tempfile.TemporaryDirectory() as folder:
        for group in groups(args.only, args.toy):
            print(f"{group.model} {', '.join(group.parts)} ...".strip(), file=sys.stderr, flush=True)
            parts += run_group(
                group, device=args.device, toy=args.toy, limits=limits, folder=Path(folder), start=start
            )
            if group.parts == ("limits",):
                limits = limits_of(list(parts[-1].rows))
    return Report(
        started=datetime.datetime.now().isoformat(timespec="seconds"),
        command=command,
        device=describe(args.device),
        versions=versions(),
        parts=tuple(parts),
    )


def main() -> int:
    """Measure and print."""
    args = parser().parse_args()
    if args.child is not None:
        child.main(args.child)
        return 0
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            print(NO_GPU, file=sys.stderr)
            return 2
    elif not args.toy:
        print("On a CPU there is --toy alone: the shapes are a GPU's.", file=sys.stderr)
        return 2
    command = shlex.join(["python", "bench/gpu.py", *sys.argv[1:]])
    report = measure(args, command, start_process(Path(__file__).resolve()))
    print(report_text(report))
    if args.json:
        args.json.write_text(report.model_dump_json(indent=1) + "\n")
    return 0 if report.complete else 1


if __name__ == "__main__":
    sys.exit(main())
