"""quire-native-cpu installed for real: as a wheel, from an sdist, editable; with a compiler and without."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from quire_native_cpu.compile import INSTRUCTION_SETS, platform_tag, recorded

from .installed import ROOT, SMALLEST, Environment

NATIVE = "plugins/native/cpu"
PLUGINS = ("plugins/kernels/cpu", "plugins/attention/cpu", "plugins/models/tiny")
NOWHERE = {"PATH": "/nowhere/to/be/found", "CXX": ""}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(recorded().error is not None, reason="there is no compiler here"),
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package's folder: building compiles into the folder, and this one's library is in use.

    What is compiled already comes along, so that it is not compiled again.
    """
    folder = tmp_path_factory.mktemp("checkout") / "native"
    shutil.copytree(ROOT / NATIVE, folder, ignore=shutil.ignore_patterns("__pycache__", "tests"))
    return folder


@pytest.fixture
def hasty(tmp_path: Path) -> Path:
    """The compiler that is found, in haste: to optimise takes minutes, and is not in question."""
    compiler = tmp_path / "hasty"
    compiler.write_text(f'#!/bin/sh\nexec {recorded().compiler.partition(" ")[0]} "$@" -O0\n')
    compiler.chmod(0o755)
    return compiler


@pytest.fixture(scope="module")
def uncompiled(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without a library, as a clean clone is."""
    folder = tmp_path_factory.mktemp("clone") / "native"
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns("lib"))
    return folder


def built(kind: str, source: Path, out: Path) -> Path:
    """A wheel or an sdist."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=300)
    (made,) = out.iterdir()
    return made


LOADS = """
from quire_native_cpu import load
from quire_native_cpu.compile import LIBRARY
print(load().name, LIBRARY)
"""


def test_a_wheel_is_for_one_platform_and_holds_the_library(checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--disable-pip-version-check", "--wheel-dir", str(tmp_path / "wheels"), str(checkout)]
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = (tmp_path / "wheels").iterdir()
    system, _, machine = sysconfig.get_platform().partition("-")
    assert wheel.name.endswith(f"-py3-none-{platform_tag(system, machine)}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"quire_native_cpu/lib/{name}.so" for name in recorded().names} <= names
    assert {"quire_native_cpu/lib/build.json", "quire_native_cpu/csrc/simd.h"} <= names
    environment = Environment(tmp_path / "venv")
    environment.install("core", wheel)
    name, place = environment.python(LOADS).split()
    assert name in INSTRUCTION_SETS
    assert Path(place).is_relative_to(environment.site)


def test_an_sdist_has_the_sources_and_no_library(checkout: Path, tmp_path: Path) -> None:
    sdist = built("sdist", checkout, tmp_path / "out")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {str(path.relative_to(checkout)) for path in (checkout / "src/quire_native_cpu/csrc").iterdir()}
    assert sources <= names
    assert {"build_hook.py", "README.md", "src/quire_native_cpu/compile.py"} <= names
    assert not [name for name in names if name.endswith(".so")]


def test_an_editable_install_loads_from_the_checkout(checkout: Path, tmp_path: Path) -> None:
    environment = Environment(tmp_path / "venv")
    environment.install("core")
    environment.install("--editable", checkout)
    name, place = environment.python(LOADS).split()
    assert name in INSTRUCTION_SETS
    assert Path(place) == checkout / "src/quire_native_cpu/lib"


def test_without_a_compiler_it_installs_and_the_doctor_says_what_it_costs(
    uncompiled: Path, hasty: Path, tmp_path: Path
) -> None:
    """Slower plugins run in its place; once there is a compiler, one command makes it whole."""
    environment = Environment(tmp_path / "venv")
    environment.install(*SMALLEST, *PLUGINS)
    environment.install(uncompiled, environ=NOWHERE)
    doctor = environment.quire("doctor", "tiny")
    assert "chosen    quire:torch-cpu" in doctor
    assert "chosen    quire-attn-torch:torch" in doctor
    for name in ("quire-kernels-cpu:cpu", "quire-attn-cpu:cpu"):
        (line,) = (line for line in doctor.splitlines() if f"rejected  {name}" in line)
        assert "its C++ is not compiled: no C++ compiler on the path" in line
        assert "`python -m quire_native_cpu`" in line
    assert environment.quire("generate", "tiny", "def ", "--max-tokens", "3", "--ignore-eos")
    assert "Compiled for" in environment.module("quire_native_cpu", environ={"CXX": str(hasty)})
    doctor = environment.quire("doctor", "tiny")
    assert "chosen    quire-kernels-cpu:cpu" in doctor
    assert "chosen    quire-attn-cpu:cpu" in doctor
