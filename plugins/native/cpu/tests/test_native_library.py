"""Which instruction sets a processor offers, and what cannot be loaded."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from quire_native_cpu import InstructionSet, UnavailableError, available, load, supported
from quire_native_cpu import compile as building
from quire_native_cpu.compile import INSTRUCTION_SETS, Build, recorded
from quire_native_cpu.signatures import SIGNATURES

AVX2 = "fpu sse sse2 sse4_2 avx avx2 fma f16c bmi1 bmi2"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"
PROCESSORS = {
    "Nehalem": ("fpu sse sse2 sse4_2", 1),
    "Sandy Bridge": ("fpu sse sse2 sse4_2 avx", 1),
    "Haswell": (AVX2, 2),
    "Zen 2": (AVX2, 2),
    "Skylake-SP": (AVX512, 2),  # no dot products of bytes
    "Cascade Lake": (f"{AVX512} avx512_vnni", 3),
    "Ice Lake": (f"{AVX512} avx512_vnni avx512_vbmi2", 3),
    "Zen 4": (f"{AVX512} avx512_vnni avx512_bf16", 4),
    "Sapphire Rapids": (f"{AVX512} avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8", 5),
    "Sapphire Rapids, virtual, tiles hidden": (f"{AVX512} avx512_vnni avx512_bf16", 4),
    "made up: bf16 without VNNI": (f"{AVX512} avx512_bf16 amx_bf16 amx_tile amx_int8", 2),
}
ORDER = get_args(InstructionSet)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A library folder that is empty, and nothing loaded."""
    monkeypatch.setattr(building, "LIBRARY", tmp_path)
    monkeypatch.setattr(recorded, "__defaults__", (tmp_path,))
    load.cache_clear()
    yield tmp_path
    load.cache_clear()


def record(library: Path, *names: str, error: str | None = None) -> None:
    build = Build(names=names, compiler="made up", error=error)
    (library / "build.json").write_text(json.dumps(dataclasses.asdict(build)))


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_processor_offers_what_its_flags_say(name: str, tmp_path: Path) -> None:
    flags, count = PROCESSORS[name]
    one = f"processor : 0\nvendor_id : Genuine\nflags\t\t: {flags}\nbugs : none\n\n"
    (tmp_path / "cpuinfo").write_text(one * 2)
    assert supported(tmp_path / "cpuinfo") == ORDER[-count:]


@pytest.mark.parametrize("text", ["", "processor : 0\nFeatures : fp asimd bf16\n"])
def test_processors_without_these_flags_take_the_plain_path(text: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert supported(tmp_path / "cpuinfo") == ("plain",)
    assert supported(tmp_path / "none") == ("plain",)


def test_instruction_sets_are_named_in_one_order() -> None:
    assert tuple(INSTRUCTION_SETS) == ORDER


@pytest.mark.parametrize("name", available())
def test_each_set_that_there_is_loads_once(name: str) -> None:
    one = load(name)
    assert one.name == name
    assert load(name) is one
    assert all(getattr(one.calls, function).argtypes == types for function, (_, types) in SIGNATURES.items())


@pytest.mark.skipif(recorded().error is not None, reason="nothing was compiled")
def test_the_best_one_is_taken() -> None:
    assert load().name == available()[0]


def test_an_unavailable_set_names_those_there_are(library: Path) -> None:
    record(library, "avx2", "plain")
    with pytest.raises(UnavailableError, match=r"'amx' is not to be had; compiled: avx2, plain; .* offers: "):
        load("amx")


def test_what_was_not_compiled_says_why(library: Path) -> None:
    with pytest.raises(UnavailableError, match="not compiled: the package was not built"):
        load()
    record(library, error="the compiler is on holiday")
    with pytest.raises(UnavailableError, match="the compiler is on holiday"):
        load()


@pytest.mark.parametrize("content", [None, b"", b"no shared object"])
def test_a_broken_library_says_what_would_do(library: Path, content: bytes | None) -> None:
    record(library, "plain")
    if content is not None:
        (library / "plain.so").write_bytes(content)
    with pytest.raises(UnavailableError, match=r"plain\.so cannot be loaded .*pip install --force-reinstall"):
        load()


ONE_POOL = """
from pathlib import Path
from quire_native_cpu import load
load()
import torch
maps = Path("/proc/self/maps").read_text().splitlines()
pools = {line.split()[-1] for line in maps if "omp" in line.split()[-1].rsplit("/")[-1]}
print(len(pools), all(Path(torch.__file__).parent in Path(pool).parents for pool in pools))
print(Path(torch.__file__).with_name("lib").joinpath("libgomp.so.1").exists())
"""


@pytest.mark.skipif(sys.platform != "linux" or recorded().error is not None, reason="looks into /proc")
def test_it_computes_in_pytorchs_openmp_whoever_comes_first() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ONE_POOL], check=True, capture_output=True, text=True, timeout=60
    )
    count, within, brings, *_ = run.stdout.split()
    assert count == "1"
    assert within == brings
