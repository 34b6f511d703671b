"""What `deploy/` ships, as the tests read it: stages of the container file, manifests of the kustomizations.

Nothing here builds an image or asks a cluster. Manifests are assembled by a small stand-in for
Kustomize, which is held to the real one where that is installed.
"""

from __future__ import annotations

import copy
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from quire import EngineConfig
from quire_server.config import ServeConfig

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CONTAINERFILE = DEPLOY / "Containerfile"
KUBERNETES = DEPLOY / "kubernetes"
GUIDE = ROOT / "docs" / "how-to" / "deploy.md"
VARIANTS = ["base", "overlays/cuda"]
TARGETS = ["cpu", "cuda"]
OTHERS_KINDS = {"PodMonitor"}  # custom resources: no schema comes with Kubernetes

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a container file, continuation lines joined."""

    keyword: str
    value: str


def instructions(text: str) -> list[Instruction]:
    """Instructions in order; comments and blank lines are gone."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]


def stages() -> dict[str, list[Instruction]]:
    """Instructions of each stage, those of the stages it is made from first."""
    found: dict[str, list[Instruction]] = {}
    name = ""
    for instruction in instructions(CONTAINERFILE.read_text()):
        if instruction.keyword == "FROM":
            base, _, name = instruction.value.partition(" AS ")
            found[name] = list(found.get(base, []))
        elif name:
            found[name].append(instruction)
    return found


def values(stage: str, keyword: str) -> list[str]:
    """Values of a stage's instructions of one kind, in order."""
    return [instruction.value for instruction in stages()[stage] if instruction.keyword == keyword]


def variables(stage: str) -> dict[str, str]:
    """Environment of a stage."""
    return dict(pair.split("=", 1) for value in values(stage, "ENV") for pair in shlex.split(value))


def packages() -> list[str]:
    """Folders of the distributions that the Makefile installs."""
    line = re.search(r"^PACKAGES := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line is not None
    return line[1].split()


def copied_from_checkout() -> list[str]:
    """Sources of every COPY that takes from the build context."""
    return [
        source
        for stage in stages()
        for value in values(stage, "COPY")
        if not value.startswith("--from=")
        for source in value.split()[:-1]
    ]


def serve_of(config: EngineConfig) -> ServeConfig:
    serve = config.sections["serve"]
    assert isinstance(serve, ServeConfig)
    return serve


def load(path: Path) -> Manifest:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge, as far as the overlays use it: maps by key, lists of named things by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in patch.items()}}
    if isinstance(base, list) and isinstance(patch, list) and all("name" in item for item in patch):
        changes = {item["name"]: item for item in patch}
        kept = [merged(item, changes.pop(item["name"], {})) for item in base]
        return kept + list(changes.values())
    return patch


def build(folder: Path) -> dict[str, Manifest]:
    """Manifests of a kustomization by kind, generated names without their hash."""
    plan = load(folder / "kustomization.yaml")
    assert set(plan) <= {"apiVersion", "kind", "resources", "images", "configMapGenerator", "patches"}
    built: dict[str, Manifest] = {}
    for name in plan["resources"]:
        path = folder / name
        built |= build(path) if path.is_dir() else {(manifest := load(path))["kind"]: manifest}
    for generator in plan["configMapGenerator"]:
        built["ConfigMap"] = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": generator["name"]},
            "data": {name: (folder / name).read_text() for name in generator["files"]},
        }
    built = copy.deepcopy(built)
    for patch in plan.get("patches", []):
        change = load(folder / patch["path"])
        assert change["metadata"]["name"] == built[change["kind"]]["metadata"]["name"]
        built[change["kind"]] = merged(built[change["kind"]], change)
    for image in plan.get("images", []):
        container = container_of(built)
        name, _ = container["image"].split(":")
        assert name == image["name"]
        container["image"] = f"{name}:{image['newTag']}"
    return built


def pod_of(built: dict[str, Manifest]) -> Manifest:
    pod: Manifest = built["Deployment"]["spec"]["template"]["spec"]
    return pod


def container_of(built: dict[str, Manifest]) -> Manifest:
    (container,) = pod_of(built)["containers"]
    assert isinstance(container, dict)
    return container


def config_of(built: dict[str, Manifest], tmp_path: Path, environ: dict[str, str]) -> EngineConfig:
    """The configuration that the pod would run with."""
    ((name, text),) = built["ConfigMap"]["data"].items()
    file = tmp_path / name
    file.write_text(text)
    return EngineConfig.load(file, sections={"serve": ServeConfig}, environ=environ)
