"""The container file agrees with itself, with the configuration and with the checkout it is built from."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from quire import EngineConfig
from quire_native_cpu import compile as building
from quire_server.config import ServeConfig

from .deployed import (
    CONTAINERFILE,
    ROOT,
    TARGETS,
    Instruction,
    copied_from_checkout,
    instructions,
    packages,
    serve_of,
    stages,
    values,
    variables,
)


def test_the_parser_joins_lines_and_drops_comments() -> None:
    assert instructions("# a\nRUN one \\\n    two\n\nUSER 1:1\n") == [
        Instruction("RUN", "one two"),
        Instruction("USER", "1:1"),
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_serves_as_a_numeric_user_without_rights(target: str) -> None:
    user, group = values(target, "USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert json.loads(values(target, "ENTRYPOINT")[-1]) == ["quire", "serve"]
    assert json.loads(values(target, "CMD")[-1]) == ["tiny"]
    assert values(target, "STOPSIGNAL") == ["SIGTERM"]
    assert values(target, "EXPOSE") == [str(ServeConfig().port)]
    assert values(target, "HEALTHCHECK") == []
    after_user = stages()[target][[i.keyword for i in stages()[target]].index("USER") :]
    assert not [i for i in after_user if i.keyword in {"RUN", "ADD"} or "--chown" in i.value]


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_writes_only_where_something_is_mounted(target: str) -> None:
    environment = variables(target)
    assert environment["HOME"] == values(target, "WORKDIR")[-1] == "/tmp"
    assert json.loads(values(target, "VOLUME")[-1]) == [environment["HF_HOME"]]
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_can_be_reached_from_outside_it(target: str) -> None:
    config = EngineConfig.load(sections={"serve": ServeConfig}, environ=variables(target), model="tiny")
    assert serve_of(config).host == "0.0.0.0"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_is_labelled_with_the_servers_version(target: str) -> None:
    labels = dict(pair.split("=", 1) for value in values(target, "LABEL") for pair in shlex.split(value))
    project = tomllib.loads((ROOT / "server" / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]


def test_a_build_without_target_makes_the_cpu_image() -> None:
    assert list(stages())[-1] == "cpu"


def test_only_the_cpu_image_takes_cpu_builds_and_only_the_cuda_image_asks_for_a_gpu() -> None:
    index = next(value for value in values("environment-cpu", "ARG") if value.startswith("TORCH_INDEX="))
    assert index.endswith("/cpu")
    cpu, cuda = (" ".join(values(f"environment-{target}", "RUN")) for target in TARGETS)
    assert '--index-url "${TORCH_INDEX}" torch' in cpu
    assert "index" not in cuda
    assert "NVIDIA_VISIBLE_DEVICES" not in variables("cpu")
    assert variables("cuda")["NVIDIA_VISIBLE_DEVICES"] == "all"


def test_every_distribution_of_the_makefile_becomes_a_wheel() -> None:
    (wheels,) = (value for value in values("wheels", "RUN") if "pip wheel" in value)
    named = [word.removeprefix("./") for word in wheels.split() if word.startswith("./")]
    assert sorted(named) == sorted(packages())
    assert all((ROOT / package / "pyproject.toml").is_file() for package in named)


@pytest.mark.parametrize("target", TARGETS)
def test_the_compiler_stays_where_the_wheels_are_built(target: str) -> None:
    """A wheel built without one is for any platform, and makes a slow image: the build has to fail."""
    install, build = values("wheels", "RUN")[0], values("wheels", "RUN")[-1]
    assert "g++" in shlex.split(install)
    assert build.endswith("&& ls /wheels/quire_native_cpu-*-linux_*.whl")
    assert not [i for stage in (f"environment-{target}", target) for i in stages()[stage] if "g++" in i.value]


def test_an_image_compiles_its_own_library() -> None:
    assert str(building.LIBRARY.relative_to(ROOT)) in (ROOT / ".containerignore").read_text().splitlines()


@pytest.mark.parametrize("target", TARGETS)
def test_pip_installs_under_the_constraints_and_keeps_no_cache(target: str) -> None:
    installs = [value for value in values(f"environment-{target}", "RUN") if "pip install" in value]
    assert installs
    assert all("--constraint constraints.txt" in value for value in installs)
    assert variables(f"environment-{target}")["PIP_NO_CACHE_DIR"] == "1"


def test_the_build_context_holds_what_is_copied_and_little_else() -> None:
    ignored = (ROOT / ".containerignore").read_text()
    assert (ROOT / ".dockerignore").read_text() == ignored
    rules = [line for line in ignored.splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    admitted = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert admitted == set(copied_from_checkout())
    assert all((ROOT / source).exists() for source in admitted)
    assert not any(fnmatch(name, pattern) for name in admitted for pattern in (".*", "*.key", "*.env"))


def test_nothing_secret_is_built_in() -> None:
    words = re.compile(r"(?i)(secret|password|passwd|token|api_?keys?)\s*=")
    assert [i for stage in stages().values() for i in stage if words.search(i.value)] == []


def test_hadolint_finds_nothing() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    run = subprocess.run([str(linter), str(CONTAINERFILE)], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
