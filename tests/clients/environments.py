"""Environments for clients that conflict with each other; made once, kept in `.venv-clients/`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
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


_POOL = ThreadPoolExecutor(2)
_BEGUN: dict[str, Future[Path]] = {}
_LOCK = threading.Lock()


def begin(names: Iterable[str]) -> None:
    """Make these environments in this order, two at a time, without waiting for them."""
    with _LOCK:
        for name in names:
            if name not in _BEGUN:
                _BEGUN[name] = _POOL.submit(_made, name)


def python_of(name: str) -> Path:
    """The interpreter of a client's environment, made if it is not there."""
    begin([name])
    return _BEGUN[name].result()


def _made(name: str) -> Path:
    home = DIRECTORY / name
    python, done = home / "bin" / "python", home / ".done"
    if done.exists() and done.read_text() == REQUIREMENTS[name]:
        return python
    shutil.rmtree(home, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    subprocess.run(
        [
            str(python),
            # Most of what comes along is never imported: not worth compiling.
            *("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"),
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
