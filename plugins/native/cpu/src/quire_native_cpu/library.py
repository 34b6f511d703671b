"""Finds the shared object for this processor, loads it once, and types its functions.

Knows pointers and numbers, no tensors: whoever calls a function answers for what the addresses point to.
Calls release the GIL.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from quire_native_cpu import compile as building
from quire_native_cpu.signatures import SIGNATURES

InstructionSet = Literal["amx", "avx512bf16", "avx512", "avx2", "plain"]
"""What the library may be compiled for, best first."""

_FLAGS: dict[str, frozenset[str]] = {
    "avx2": frozenset({"avx2", "fma", "f16c", "bmi2"}),
    "avx512": frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
    "avx512bf16": frozenset({"avx512_bf16"}),
    "amx": frozenset({"amx_tile", "amx_bf16", "amx_int8"}),
    "plain": frozenset(),
}
_ORDER: tuple[str, ...] = tuple(reversed(get_args(InstructionSet)))
"""Each instruction set needs its own flags of /proc/cpuinfo and those of the sets before it."""


class UnavailableError(Exception):
    """There is no library to load; the message says why, and what would do."""


@dataclass(frozen=True, slots=True)
class Library:
    """One loaded shared object.

    Attributes:
        name: the instruction set it was compiled for.
        calls: its functions, as `signatures` types them.
    """

    name: str
    calls: ctypes.CDLL


def supported(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """The instruction sets this processor and its kernel offer, best first."""
    flags: set[str] = set()
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")]
        flags = set(lines[0].partition(":")[2].split()) if lines else set()
    names = []
    for name in _ORDER:
        if not _FLAGS[name] <= flags:
            break
        names.append(name)
    return tuple(reversed(names))


def available() -> tuple[str, ...]:
    """Those of them that were compiled; none where there was no compiler."""
    return tuple(name for name in supported() if name in building.recorded().names)


@functools.cache
def load(name: str | None = None) -> Library:
    """The library for an instruction set; None takes the best one.

    Raises:
        UnavailableError: nothing was compiled, or not this, or this processor lacks it.
    """
    build, names = building.recorded(), available()
    if build.error is not None:
        raise UnavailableError(f"its C++ is not compiled: {build.error}")
    if name is not None and name not in names:
        raise UnavailableError(
            f"instruction set {name!r} is not to be had; compiled: {', '.join(build.names)}; "
            f"this {platform.machine()} processor offers: {', '.join(supported())}"
        )
    chosen = name or names[0]
    # PyTorch first: its wheels bring a libgomp.so.1, which this then shares. On a system that has none itself
    # there is no other.
    importlib.import_module("torch")
    try:
        calls = ctypes.CDLL(str(building.LIBRARY / f"{chosen}.so"))
    except OSError as error:
        raise UnavailableError(
            f"{chosen}.so cannot be loaded ({error}): pip install --force-reinstall --no-deps --no-cache-dir "
            "quire-native-cpu"
        ) from error
    for function, (result, arguments) in SIGNATURES.items():
        entry = getattr(calls, function)
        entry.restype, entry.argtypes = result, arguments
    if not calls.quire_prepare():
        raise UnavailableError(f"the operating system does not let this process use {chosen}'s registers")
    return Library(chosen, calls)
