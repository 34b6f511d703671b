"""Environments for clients that conflict with each other; made once, kept in `.venv-clients/`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / ".venv-clients"
REQUIREMENTS = {
    "openai": "openai>=3",
    "openai-0.28": "openai==0.28.1",
    "langchain-openai": "langchain-openai",
    "litellm": "litellm",
    "anthropic": "anthropic>=2",
    "ollama": "ollama",
    "lm-eval": "lm_eval[api]",
}


def python_of(name: str) -> Path:
    """The interpreter of a client's environment, made if it is not there."""
    home = DIRECTORY / name
    python, done = home / "bin" / "python", home / ".done"
    if done.exists() and done.read_text() == REQUIREMENTS[name]:
        return python
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run(
        [
            str(python),
            *("-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
            *("--constraint", str(ROOT / "constraints.txt"), REQUIREMENTS[name]),
        ],
        check=True,
    )
    done.write_text(REQUIREMENTS[name])
    return python


def node_modules(package: str) -> Path | None:
    """A directory in which node finds a package of npm's, or None where there is no node."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return None
    home = DIRECTORY / f"npm-{package}"
    if not (home / "node_modules" / package).is_dir():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text('{"private": true, "type": "module"}\n')
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--silent", package], cwd=home, check=True
        )
    return home
