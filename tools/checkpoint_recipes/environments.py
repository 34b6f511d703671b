"""The tools' environments, each its own, for they exclude each other; and what was written in them.

Made once and kept in a cache directory outside the repository (`TOOLS_CACHE`, or the user's own), with
PyTorch put in first and held by the constraint: whatever is installed after it would bring a CUDA build.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from checkpoint_recipes.variants import VARIANTS, of_tool

ROOT = Path(__file__).parents[2]
RECIPES = Path(__file__).parent
TINY = ROOT / "plugins" / "models" / "tiny" / "src" / "quire_models_tiny" / "data"
STEPS: dict[str, tuple[tuple[str, ...], ...]] = {
    "autoawq": (("transformers==5.23.0",), ("--no-build-isolation", "autoawq==0.2.9")),
    "autogptq": (
        ("transformers==4.46.3", "peft==0.13.2", "accelerate==1.1.1", "datasets==3.1.0", "numpy<2.4"),
        ("--no-build-isolation", "auto-gptq==0.7.1"),
    ),
    # It asks for a newer PyTorch than the one that is pinned here, and runs on this one.
    "gptqmodel": (
        ("transformers==5.23.0", "accelerate", "datasets", "dill", "jinja2", "numpy", "pillow", "protobuf"),
        ("defuser", "device-smi", "logbar", "pypcre", "threadpoolctl", "tokenicer", "torchao", "requests"),
        ("--no-build-isolation", "--no-deps", "gptqmodel==7.7.0"),
    ),
    "llmcompressor": (("llmcompressor==0.14.0.1",),),
    # It wants numpy < 2, which later versions of what reads data sets do not.
    "llmcompressor_0_6": (("llmcompressor==0.6.0.1", "transformers==4.52.4", "datasets<4", "pyarrow<21"),),
}
"""Per tool the arguments of one `pip install` after another."""


def cache() -> Path:
    """Where environments and what they wrote are kept."""
    named = os.environ.get("TOOLS_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(named) if named else base / "quire" / "tools"


def python_of(tool: str) -> Path:
    """The interpreter of a tool's environment, made if it is not there."""
    home = cache() / "environments" / tool
    python, done = home / "bin" / "python", home / ".done"
    wanted = f"{STEPS[tool]}\n{(ROOT / 'constraints.txt').read_text()}"
    if done.exists() and done.read_text() == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    install += ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([str(python), str(ROOT / "tools" / "install_torch.py")], check=True)
    subprocess.run([*install, "setuptools<80", "wheel"], check=True)
    # auto-gptq would compile kernels for a GPU that is not there
    environ = {**os.environ, "BUILD_CUDA_EXT": "0"}
    for step in STEPS[tool]:
        subprocess.run([*install, *step], check=True, env=environ)
    done.write_text(wanted)
    return python


def written(tool: str) -> Path:
    """The directory with what a tool writes, by the recipe as it is now; kept until that changes.

    Raises:
        RuntimeError: the tool failed; with the end of what it said.
    """
    recipe = [STEPS[tool], [(name, VARIANTS[name].model, VARIANTS[name].settings) for name in of_tool(tool)]]
    digest = hashlib.sha256(repr(recipe).encode())
    for name in ("sources", "reference", f"with_{tool}"):
        digest.update((RECIPES / f"{name}.py").read_bytes())
    out = cache() / "checkpoints" / f"{tool}-{digest.hexdigest()[:12]}"
    if all((out / name).is_dir() for name in of_tool(tool)):
        return out
    for stale in out.parent.glob(f"{tool}-*"):
        if stale != out:
            shutil.rmtree(stale)
    out.mkdir(parents=True, exist_ok=True)
    command = [str(python_of(tool)), str(ROOT / "tools" / "write_quantized.py"), tool]
    command += ["--out", str(out), "--tiny", str(TINY)]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=3000)
    if found.returncode != 0:
        raise RuntimeError(f"{tool} failed:\n{found.stdout[-3000:]}\n{found.stderr[-6000:]}")
    return out
