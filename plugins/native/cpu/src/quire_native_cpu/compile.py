"""Compiles the library: the same sources once for each instruction set, side by side.

Knows the compiler and the standard library only, for it runs while the package is being built; the sources
need no headers of Python's or PyTorch's. `python -m quire_native_cpu` compiles anew after a change.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PACKAGE = Path(__file__).parent
SOURCES = PACKAGE / "csrc"
LIBRARY = PACKAGE / "lib"

_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-mbmi2")
_AVX512 = (
    *_AVX2,
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mavx512vnni",
    "-mprefer-vector-width=512",
)
_BF16 = (*_AVX512, "-mavx512bf16")
INSTRUCTION_SETS: dict[str, tuple[str, ...]] = {
    "amx": (*_BF16, "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    "avx512bf16": _BF16,
    "avx512": _AVX512,
    "avx2": _AVX2,
    "plain": (),
}
"""Name -> the compiler's flags, best first. On processors other than x86-64 only `plain` is compiled."""

_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-fopenmp",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
)


_AGAIN = "`python -m quire_native_cpu`"
"""The way out of each error. Not a reinstallation: pip keeps the wheel that it built without a compiler."""


@dataclasses.dataclass(frozen=True, slots=True)
class Build:
    """What compiling came to; kept as `lib/build.json`.

    Attributes:
        names: the instruction sets that were compiled, best first.
        compiler: its path, and what it says of its version.
        error: why there is no library; None if there is one.
        digest: of sources, flags and compiler, by which an unchanged library is not compiled again.
    """

    names: tuple[str, ...] = ()
    compiler: str = ""
    error: str | None = None
    digest: str = ""


def compile_library(library: Path = LIBRARY) -> Build:
    """Compile whatever is not up to date into `library`, and keep there what came of it.

    Environment: CXX names the compiler; otherwise the first of c++, g++ and clang++ on the path.
    """
    library.mkdir(parents=True, exist_ok=True)
    build = _compile(library, recorded(library))
    for left_over in library.glob("*.so"):
        if left_over.stem not in build.names:
            left_over.unlink()  # of other sources, which nobody would load and wheels would carry
    (library / "build.json").write_text(json.dumps(dataclasses.asdict(build), indent=1) + "\n")
    return build


def recorded(library: Path = LIBRARY) -> Build:
    """What the last compilation came to."""
    try:
        record = json.loads((library / "build.json").read_text())
    except FileNotFoundError:
        return Build(error=f"the package was not built: run {_AGAIN}")
    return Build(**{**record, "names": tuple(record["names"])})


def platform_tag(system: str, machine: str) -> str:
    """A wheel's platform tag for a library linked against this machine's own C library."""
    if system == "Darwin":
        return f"macosx_{'11_0' if machine == 'arm64' else '10_15'}_{machine}"
    return f"{system.lower()}_{machine}".replace("-", "_")


def _compile(library: Path, last: Build) -> Build:
    wanted = os.environ.get("CXX")
    candidates = [wanted] if wanted else ["c++", "g++", "clang++"]
    compiler = next((path for name in candidates if (path := shutil.which(name))), None)
    if compiler is None:
        return Build(
            error=f"no C++ compiler on the path (looked for {', '.join(candidates)}): install one "
            f"(Debian: apt-get install g++) and run {_AGAIN}"
        )
    try:
        asked = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True)
        version = asked.stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        return Build(error=f"{compiler} --version failed: {error}; CXX names another compiler for {_AGAIN}")
    names = tuple(INSTRUCTION_SETS) if platform.machine() in ("x86_64", "AMD64") else ("plain",)
    digest = _digest(version, names)
    if (
        last.digest == digest
        and last.error is None
        and all((library / f"{name}.so").exists() for name in names)
    ):
        return last
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        errors = list(pool.map(lambda name: _compile_one(compiler, name, library), names))
    built = tuple(name for name, error in zip(names, errors, strict=True) if error is None)
    # A compiler too old for the newest instruction sets still gives the others.
    failure = None if built else f"{compiler} failed (CXX names another one for {_AGAIN}):\n{errors[-1]}"
    return Build(built, f"{compiler} ({version})", failure, digest if built == names else "")


def _compile_one(compiler: str, name: str, library: Path) -> str | None:
    """Compile for one instruction set; returns the compiler's words if it fails."""
    sources = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
    with tempfile.TemporaryDirectory(dir=library) as folder:
        target = Path(folder, f"{name}.so")
        command = [compiler, *_FLAGS, *INSTRUCTION_SETS[name], "-o", str(target), *sources]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{' '.join(command)}\n{done.stderr[-4000:]}"
        target.replace(library / target.name)  # whoever has the old one loaded keeps it
    return None


def _digest(version: str, names: tuple[str, ...]) -> str:
    digest = hashlib.sha256(
        repr((version, _FLAGS, [(name, INSTRUCTION_SETS[name]) for name in names])).encode()
    )
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
