"""The peers, read from peers.toml: how each is started, what it needs, whether it is there.

Knows tables and files; starts nothing but a peer's interpreter, to ask which versions it has.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent
LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
ASK_VERSIONS = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps(found))
"""


class PeerSpec(BaseModel):
    """A table of peers.toml. In texts, {names} are filled in: see `places`.

    Attributes:
        adapter: its file, beside peers.toml unless the path is absolute.
        variant: peers of one variant stand in one table.
        baseline: the others of its variant are compared with it.
        python: the interpreter.
        distributions: what its environment has to have; their versions are recorded.
        form: of the checkpoint that it is given, of `checkpoint.FORMS`.
        model: what it loads.
        holds: how it keeps the weights, in a few words, where its variant does not say it all.
        files: what else has to be there.
        options: for the adapter.
        env: environment variables; of LD_PRELOAD, files that are not there are left out.
        server: command of its OpenAI-compatible server; none if it has none.
        skip: workloads that it has no part in.
        memory_gib: that it takes beside three times the weights.
        setup: how to get it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: str
    variant: str = "bf16"
    baseline: bool = False
    python: str = "{python}"
    distributions: tuple[str, ...] = ()
    form: str = "bf16"
    model: str = "{checkpoint}"
    holds: str = ""
    files: tuple[str, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    server: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    memory_gib: float = 2.0
    setup: str


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer as it is started for one model: nothing is left to fill in, except a server's {port}."""

    name: str
    spec: PeerSpec
    python: str
    model: str
    env: dict[str, str]
    threads: int
    versions: dict[str, str]

    @property
    def command(self) -> list[str]:
        """Of its worker."""
        options = json.dumps(self.spec.options)
        return [
            *(self.python, self.spec.adapter, "--model", self.model),
            *("--threads", str(self.threads), "--options", options),
        ]


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer that cannot be measured here: what is missing, and how to get it."""

    name: str
    reason: str
    setup: str


def read_specs(path: Path = BENCH / "peers.toml") -> dict[str, PeerSpec]:
    """All peers, by name."""
    tables = tomllib.loads(path.read_text())
    for table in tables.values():
        table["adapter"] = str(path.parent.absolute() / table["adapter"])
    return {name: PeerSpec.model_validate(table) for name, table in tables.items()}


def variable(name: str) -> str:
    """The environment variable that names a peer's interpreter."""
    return "BENCH_PYTHON_" + re.sub(r"\W", "_", name).upper()


def places(work: Path, model: str, checkpoint: Path, threads: int) -> dict[str, str]:
    """What texts of peers.toml may name."""
    found = (Path(folder) / "libtcmalloc_minimal.so.4" for folder in LIBRARY_FOLDERS)
    return {
        "python": sys.executable,
        "work": str(work),
        "name": model,
        "checkpoint": str(checkpoint),
        "threads": str(threads),
        "last_core": str((os.cpu_count() or 1) - 1),
        "tcmalloc": next((str(path) for path in found if path.exists()), ""),
    }


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with {names} filled in; names that are not given stay."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def installed(python: str, distributions: tuple[str, ...]) -> dict[str, str]:
    """Versions of those distributions that an interpreter has."""
    command = [python, "-c", ASK_VERSIONS, *distributions]
    asked = subprocess.run(command, capture_output=True, text=True, check=True, env=_environment({}))
    found: dict[str, str] = json.loads(asked.stdout)
    return found


def resolve(
    name: str, spec: PeerSpec, values: Mapping[str, str], pythons: Mapping[str, str]
) -> Peer | Absent:
    """A peer ready to be started, or why it cannot be.

    Args:
        values: of `places`.
        pythons: interpreters by peer, over what peers.toml says; the environment's `variable(name)` comes
            in between.
    """
    setup = fill(spec.setup, values)
    python = pythons.get(name) or os.environ.get(variable(name)) or fill(spec.python, values)
    if not Path(python).exists():
        return Absent(name, f"there is no {python}", setup)
    values = {**values, "python": python, "venv": str(Path(python).parent.parent)}
    versions = installed(python, spec.distributions)
    if missing := [one for one in spec.distributions if one not in versions]:
        return Absent(name, f"{python} has no {', '.join(missing)}", setup)
    model = fill(spec.model, values)
    for path in (model, *(fill(one, values) for one in spec.files)):
        if not Path(path).exists():
            return Absent(name, f"there is no {path}", setup)
    env = {key: fill(text, values) for key, text in spec.env.items()}
    if "LD_PRELOAD" in env:
        kept = [one for one in env["LD_PRELOAD"].split(":") if one and Path(one).exists()]
        env["LD_PRELOAD"] = ":".join(kept)
    filled = spec.model_copy(
        update={"server": tuple(fill(one, values | {"model": model}) for one in spec.server)}
    )
    return Peer(name, filled, python, model, _environment(env), int(values["threads"]), versions)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {key: text for key, text in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    return {
        **kept,
        "PYTHONPATH": str(BENCH),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **more,
    }
