"""Packages installed for real, as wheels, into an environment of their own.

What Quire depends on is linked from the environment that runs the tests, to spare downloads;
Quire's own packages, the plugins under test among them, come from nowhere but the wheels.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from quire.testing.model import Reference

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SMALLEST = ("core", "plugins/attention/torch", "plugins/models/llama", "plugins/samplers/standard")
EXAMPLE = "examples/quire-kernels-fused-norm"


class Environment:
    """A virtual environment with some of Quire's packages."""

    def __init__(self, directory: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(directory)], check=True)
        self.bin = directory / "bin"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = directory / "lib" / version / "site-packages"
        self._link_dependencies(directory / "dependencies")

    def install(self, *packages: str) -> None:
        """`pip install` of folders of this repository."""
        command = [self.bin / "python", "-m", "pip", "install", "--quiet", "--no-deps"]
        self._run([*map(str, command), *(str(ROOT / package) for package in packages)])

    def quire(self, *arguments: str) -> str:
        """What a `quire` command prints."""
        return self._run([str(self.bin / "quire"), *arguments])

    def python(self, code: str) -> str:
        """What a script prints."""
        return self._run([str(self.bin / "python"), "-c", code])

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

    def _run(self, command: list[str]) -> str:
        run = subprocess.run(command, capture_output=True, text=True, cwd=self.bin.parent, timeout=600)
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        return run.stdout


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Core, one attention backend, one model family, one sampler: the least that generates."""
    made = Environment(tmp_path_factory.mktemp("scratch") / "venv")
    made.install(*SMALLEST)
    return made


def test_the_smallest_set_generates(environment: Environment, checkpoint: Callable[[str], Reference]) -> None:
    plugins = json.loads(environment.quire("plugins", "--json"))
    assert "tiny" not in json.dumps(plugins)
    model = str(checkpoint("qwen3").directory)
    result = json.loads(
        environment.quire("generate", model, "abc", "--max-tokens", "5", "--ignore-eos", "--json")
    )
    assert len(result["outputs"][0]["token_ids"]) == 5


def test_a_third_party_plugin_is_found_used_and_conforms(
    environment: Environment, checkpoint: Callable[[str], Reference]
) -> None:
    environment.install(EXAMPLE)
    listed = environment.quire("plugins", "--json")
    assert "quire-kernels-fused-norm" in listed
    script = (
        "from quire import LLM, SamplingParams\n"
        f"llm = LLM({str(checkpoint('llama').directory)!r}, kernels='fused-norm', show_progress=False)\n"
        "out = llm.generate('abc', SamplingParams(max_tokens=4, ignore_eos=True), use_tqdm=False)\n"
        "print(llm.plan.plugins['kernels'].distribution, len(out[0].outputs[0].token_ids))\n"
    )
    assert environment.python(script).split() == ["quire-kernels-fused-norm", "4"]
    assert " passed" in environment.pytest(ROOT / EXAMPLE / "tests")


def test_the_example_is_as_short_as_the_guide_says() -> None:
    code = [
        line
        for path in (ROOT / EXAMPLE / "src").rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip() and not line.strip().startswith(('"""', "#"))
    ]
    assert len(code) <= 15
