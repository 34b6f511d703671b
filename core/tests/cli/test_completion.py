"""Shell completion: the scripts, and what a shell gets from them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Run = Callable[..., Result]
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("shell", "startup_file"),
    [("bash", "~/.bashrc"), ("zsh", "~/.zshrc"), ("fish", "~/.config/fish/completions/quire.fish")],
)
def test_each_shell_gets_its_script_and_how_to_install_it(run: Run, shell: str, startup_file: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert f"_QUIRE_COMPLETE={shell}_complete" in result.stdout
    assert startup_file in result.stdout.splitlines()[-1]
    assert startup_file in run("completion", "--help").stdout


def test_an_unknown_shell_is_refused(run: Run) -> None:
    result = run("completion", "tcsh")
    assert (result.exit_code, "'bash', 'fish', 'zsh'" in result.stderr) == (2, True)


def complete(*words: str) -> list[str]:
    """What bash offers for the last of these words, having read the script."""
    bash = shutil.which("bash")
    if bash is None or not (BIN / "quire").exists():
        pytest.skip("needs bash and the installed script `quire`")
    typed = " ".join(f"'{word}'" for word in words)
    script = (
        'eval "$(quire completion bash)"\n'
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}\n"
        "_quire_completion quire\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "QUIRE_PLUGINS_ALLOW": "quire"},
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_groups_and_flags() -> None:
    assert complete("quire", "ge") == ["generate"]
    assert complete("quire", "bench", "t") == ["throughput"]
    assert complete("quire", "generate", "--max-num-s") == ["--max-num-seqs"]


def test_completing_a_command_imports_none() -> None:
    code = (
        "import os, sys\n"
        "os.environ |= dict(_QUIRE_COMPLETE='bash_complete', COMP_WORDS='quire ', COMP_CWORD='1')\n"
        "from quire.cli import main\n"
        "try: main([])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "plain,generate" in done.stdout.split()
    assert {"torch", "pydantic", "quire.cli.generate"} & set(done.stderr.split()) == set()
