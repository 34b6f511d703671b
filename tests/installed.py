"""Environments into which packages are installed for real.

What Quire depends on is linked from the environment that runs the tests, to spare downloads; Quire's own
packages come from nowhere but where a test installs them from.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = ("core", "plugins/attention/torch", "plugins/models/llama", "plugins/samplers/standard")
"""The least that generates: core, one attention backend, one model family, one sampler."""


class Environment:
    """A virtual environment with some of Quire's packages."""

    def __init__(self, directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
        self.bin = directory / "bin"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = directory / "lib" / version / "site-packages"
        self._link_dependencies(directory / "dependencies")

    def install(self, *packages: str | Path, environ: Mapping[str, str] | None = None) -> str:
        """`pip install` of wheels, folders of this repository and options; returns what pip prints."""
        command = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--no-deps"]
        command += ["--no-build-isolation", "--disable-pip-version-check", "--no-cache-dir"]
        return self._run([*command, *map(_from_root, packages)], environ)

    def quire(self, *arguments: str) -> str:
        """What a `quire` command prints."""
        return self._run([str(self.bin / "quire"), *arguments])

    def python(self, code: str) -> str:
        """What a script prints."""
        return self._run([str(self.bin / "python"), "-c", code])

    def module(self, name: str, environ: Mapping[str, str] | None = None) -> str:
        """What `python -m` prints."""
        return self._run([str(self.bin / "python"), "-m", name], environ)

    def pytest(self, folder: Path) -> str:
        """What pytest prints for a folder."""
        return self._run(
            [str(self.bin / "python"), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
        )

    def _link_dependencies(self, directory: Path) -> None:
        """A folder of links to everything installed here that is not Quire's, put on the path."""
        directory.mkdir()
        seen = {"pip", "setuptools"}
        for site in [sysconfig.get_path("purelib"), *(p for p in sys.path if "site-packages" in p)]:
            for entry in Path(site).iterdir():
                name = entry.name
                own = name.lower().startswith(("quire", "__editable__", "_editable", "distutils-precedence"))
                if not own and not name.endswith(".pth") and name not in seen:
                    seen.add(name)
                    (directory / name).symlink_to(entry)
        (self.site / "dependencies.pth").write_text(f"{directory}\n")

    def _run(self, command: list[str], environ: Mapping[str, str] | None = None) -> str:
        run = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.bin.parent,
            env={**os.environ, **(environ or {})},
            timeout=600,
        )
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        return run.stdout


def _from_root(package: str | Path) -> str:
    return package if isinstance(package, str) and package.startswith("-") else str(ROOT / package)
