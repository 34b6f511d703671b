"""The documentation runs, and says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "quire-kernels-fused-norm"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of a page."""
    return [code for name, code in BLOCK.findall((ROOT / page).read_text()) if name == language]


def test_generated_pages_are_up_to_date() -> None:
    subprocess.run([sys.executable, "tools/write_reference.py", "--check"], cwd=ROOT, check=True)


@pytest.mark.parametrize("page", ["README.md", "docs/tutorials/first-steps.md"])
def test_the_python_of_the_first_pages_runs(page: str) -> None:
    script = blocks(page, "python")[0]
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_the_guide_to_beam_search_runs() -> None:
    for script in blocks("docs/how-to/beam-search.md", "python"):
        run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert len(run.stdout.strip().splitlines()) >= 2


def test_the_logits_processor_of_the_guide_works() -> None:
    used, written, described = blocks("docs/how-to/logits-processors.md", "python")
    script = (
        f"{used}\n{written}\n{described}\n"
        "assert text.strip()\n"
        "[spec] = quire_logits_processors()\n"
        "from quire.contracts import SampleRows\n"
        "floor = Floor(None)\n"
        "assert not floor.add(0, SamplingParams(), [1], [])\n"
        "assert floor.add(1, SamplingParams(extra_args={'floor': 2.0}), [1], [])\n"
        "logits = torch.tensor([[0.0, 1.0, 2.5]])\n"
        "floor.process(logits, SampleRows(slots=[1], positions=[1]))\n"
        "assert logits.tolist() == [[float('-inf'), 1.0, 2.5]]\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


def test_the_command_in_the_guide_gets_its_flags() -> None:
    script = blocks("docs/how-to/command-line.md", "python")[0]
    script += "\ncommand(['tiny', '--port', '80', '--api-key', 'k'])"
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "tiny port=80 api_keys=[SecretStr('**********')]\n", run.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/write-a-plugin.md"])
def test_the_guide_shows_the_example_as_it_is(page: str) -> None:
    """The code is the same but for docstrings, which the example has and the guide spares the reader."""

    def bare(code: str) -> list[str]:
        lines = (line.split("#")[0].rstrip() for line in code.splitlines())
        return [line for line in lines if line and not line.strip().startswith('"""')]

    shown = [bare(code) for code in blocks(page, "python")]
    for path in sorted((EXAMPLE / "src").rglob("*.py")):
        assert bare(path.read_text()) in shown, path.name


def test_every_page_is_in_the_navigation() -> None:
    listed = (ROOT / "mkdocs.yml").read_text() + (ROOT / "docs" / "decisions" / "index.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert name in listed or page.name in listed, f"{name} is nowhere in mkdocs.yml"


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "tiny", "def fibonacci(n):", "--max-tokens", "8", "--temperature", "0.7"],
        ["doctor", "tiny"],
        ["plan", "tiny", "--memory", "2GiB"],
        ["completion", "bash"],
        ["plugins"],
        ["config", "--schema"],
    ],
)
def test_the_commands_of_the_readme_run(arguments: list[str]) -> None:
    command = [str(Path(sys.executable).parent / "quire"), *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
