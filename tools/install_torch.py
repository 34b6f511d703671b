"""Installs PyTorch into the running environment, and never a CUDA build on a machine without a GPU.

Plain pip is asked first what it would take from the indexes it is configured with. A CPU build, or any
build where there is a GPU or no Linux, is taken as it is. Otherwise PyTorch's public index of
CPU builds is added, if it answers; if it does not, nothing is installed and the error says what to do.

Environment: TORCH_INDEX names another index with CPU builds.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
DEFAULT_INDEX = "https://download.pytorch.org/whl/cpu"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def main() -> int:
    """Install torch unless it is there; returns the exit status."""
    command = ["install", "--quiet", "--constraint", str(CONSTRAINTS)]
    if installed():
        return 0
    if sys.platform != "linux" or has_gpu() or would_take_cpu_build():
        return subprocess.call([*PIP, *command, "torch"])
    index = os.environ.get("TORCH_INDEX") or DEFAULT_INDEX
    if not answers(index):
        print(
            f"error: this machine has no GPU, pip's configured indexes offer only CUDA builds of torch, "
            f"and {index} does not answer. "
            f"Set TORCH_INDEX to an index with CPU builds, or install torch yourself:\n"
            f"    {sys.executable} -m pip install --constraint {CONSTRAINTS} torch",
            file=sys.stderr,
        )
        return 1
    return subprocess.call([*PIP, *command, "--extra-index-url", index, "torch"])


def installed() -> bool:
    """Whether this environment has torch already."""
    return subprocess.call([*PIP, "show", "--quiet", "torch"], stderr=subprocess.DEVNULL) == 0


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.call([tool, "-L"], stdout=subprocess.DEVNULL) == 0


def would_take_cpu_build() -> bool:
    """Whether plain pip, as configured, would take a CPU build."""
    command = ["install", "--dry-run", "--no-deps", "--quiet", "--ignore-installed", "--report", "-"]
    run = subprocess.run(
        [*PIP, *command, "--constraint", str(CONSTRAINTS), "torch"],
        capture_output=True,
        text=True,
    )
    if run.returncode != 0:
        return False
    version: str = json.loads(run.stdout)["install"][0]["metadata"]["version"]
    return version.endswith("+cpu")


def answers(index: str) -> bool:
    """Whether a package index can be reached."""
    try:
        with urllib.request.urlopen(index, timeout=10):
            return True
    except (urllib.error.URLError, TimeoutError, ValueError):
        return False


if __name__ == "__main__":
    raise SystemExit(main())
