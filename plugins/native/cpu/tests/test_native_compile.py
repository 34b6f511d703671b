"""What compiling comes to, with compilers that are small scripts."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from quire_native_cpu import compile as building
from quire_native_cpu.compile import INSTRUCTION_SETS, compile_library, platform_tag, recorded

COMPILER = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in
  *--version*) echo "{version}"; exit {version_status};;
  {refuses}) echo "error: cannot do this" >&2; exit 1;;
esac
while [ $# -gt 1 ]; do
  if [ "$1" = -o ]; then echo made > "$2"; fi
  shift
done
"""


class Workshop:
    """A path with the compilers that a test puts there, and a folder for the library."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.library, self._calls = folder / "bin", folder / "lib", folder / "calls"
        self.bin.mkdir()

    def compiler(
        self, name: str, version: str = "made-up 1.0", status: int = 0, refuses: str = "*-fnothing*"
    ) -> Path:
        """Put a compiler there that fails on arguments matching the shell pattern `refuses`."""
        path = self.bin / name
        path.write_text(
            COMPILER.format(calls=self._calls, version=version, version_status=status, refuses=refuses)
        )
        path.chmod(0o755)
        return path

    def compiled(self) -> list[str]:
        """The command lines since the last question, those that ask for the version left out."""
        if not self._calls.exists():
            return []
        lines = self._calls.read_text().splitlines()
        self._calls.unlink()
        return [line for line in lines if "--version" not in line]


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = Workshop(tmp_path)
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return made


def test_every_instruction_set_is_compiled_from_all_sources(workshop: Workshop) -> None:
    workshop.compiler("g++")
    build = compile_library(workshop.library)
    assert build == recorded(workshop.library)
    assert build.error is None
    assert build.names == tuple(INSTRUCTION_SETS)
    assert build.compiler == f"{workshop.bin / 'g++'} (made-up 1.0)"
    files = {path.name for path in workshop.library.iterdir()}
    assert files == {"build.json", *(f"{name}.so" for name in INSTRUCTION_SETS)}
    lines = workshop.compiled()
    assert len(lines) == len(INSTRUCTION_SETS)
    sources = list(building.SOURCES.glob("*.cpp"))
    assert len(sources) > 5
    assert all(str(source) in line for source in sources for line in lines)


def test_what_is_up_to_date_is_not_compiled_again(workshop: Workshop) -> None:
    workshop.compiler("g++")
    build = compile_library(workshop.library)
    assert workshop.compiled()
    assert compile_library(workshop.library) == build
    assert workshop.compiled() == []
    (workshop.library / "avx2.so").unlink()
    compile_library(workshop.library)
    assert len(workshop.compiled()) == len(INSTRUCTION_SETS)
    workshop.compiler("g++", version="made-up 2.0")
    assert compile_library(workshop.library).digest != build.digest
    assert workshop.compiled()


def test_a_changed_source_is_compiled(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = tmp_path / "csrc"
    shutil.copytree(building.SOURCES, sources)
    monkeypatch.setattr(building, "SOURCES", sources)
    workshop.compiler("g++")
    compile_library(workshop.library)
    workshop.compiled()
    with (sources / "simd.h").open("a") as header:
        header.write("// another line\n")
    compile_library(workshop.library)
    assert len(workshop.compiled()) == len(INSTRUCTION_SETS)


def test_without_a_compiler_the_record_says_why_and_what_would_do(workshop: Workshop) -> None:
    build = compile_library(workshop.library)
    assert build == recorded(workshop.library)
    assert build.names == ()
    assert build.error is not None
    assert "no C++ compiler on the path (looked for c++, g++, clang++)" in build.error
    assert "apt-get install g++" in build.error
    assert "python -m quire_native_cpu" in build.error


def test_cxx_names_the_compiler(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.compiler("g++")
    mine = workshop.compiler("my-own", version="my own 3")
    monkeypatch.setenv("CXX", str(mine))
    assert compile_library(workshop.library).compiler == f"{mine} (my own 3)"
    monkeypatch.setenv("CXX", "nowhere-to-be-found")
    error = compile_library(workshop.library).error
    assert error is not None
    assert "looked for nowhere-to-be-found" in error


def test_the_first_of_the_usual_names_is_taken(workshop: Workshop) -> None:
    workshop.compiler("clang++")
    assert "clang++" in compile_library(workshop.library).compiler
    workshop.compiler("c++", version="made-up 2.0")
    assert "bin/c++" in compile_library(workshop.library).compiler


def test_a_compiler_too_old_for_amx_gives_the_others(workshop: Workshop) -> None:
    workshop.compiler("g++")
    compile_library(workshop.library)
    workshop.compiler("g++", version="made-up 0.9", refuses="*-mamx-tile*")
    build = compile_library(workshop.library)
    assert build.error is None
    assert build.names == ("avx512bf16", "avx512", "avx2", "plain")
    assert not (workshop.library / "amx.so").exists(), "it is of another compilation"
    workshop.compiled()
    workshop.compiler("g++", version="made-up 0.9")
    assert compile_library(workshop.library).names == tuple(INSTRUCTION_SETS)


def test_a_compiler_that_fails_is_quoted(workshop: Workshop) -> None:
    workshop.compiler("g++", refuses="*")
    error = compile_library(workshop.library).error
    assert error is not None
    assert "error: cannot do this" in error
    assert "CXX" in error
    assert not list(workshop.library.glob("*.so"))


def test_what_does_not_tell_its_version_is_no_compiler(workshop: Workshop) -> None:
    workshop.compiler("g++", status=1)
    error = compile_library(workshop.library).error
    assert error is not None
    assert "g++ --version failed" in error


def test_what_cannot_be_started_is_no_compiler(workshop: Workshop) -> None:
    path = workshop.compiler("g++")
    path.write_text("#!/nowhere/to/be/found\n")
    error = compile_library(workshop.library).error
    assert error is not None
    assert "g++ --version failed" in error


def test_other_processors_get_the_plain_one(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    workshop.compiler("g++")
    assert compile_library(workshop.library).names == ("plain",)
    assert not any("-mavx" in line for line in workshop.compiled())


def test_a_folder_without_a_record_was_not_built(tmp_path: Path) -> None:
    error = recorded(tmp_path).error
    assert error is not None
    assert "not built" in error
    assert "python -m quire_native_cpu" in error


@pytest.mark.parametrize(
    ("system", "machine", "tag"),
    [
        ("Linux", "x86_64", "linux_x86_64"),
        ("Linux", "aarch64", "linux_aarch64"),
        ("Darwin", "arm64", "macosx_11_0_arm64"),
        ("Darwin", "x86_64", "macosx_10_15_x86_64"),
    ],
)
def test_wheels_are_for_one_platform(system: str, machine: str, tag: str) -> None:
    assert platform_tag(system, machine) == tag


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no compiler here")
def test_the_library_here_was_compiled() -> None:
    assert recorded().error is None
    assert "plain" in recorded().names
