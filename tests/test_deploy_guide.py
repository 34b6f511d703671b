"""The systemd unit and the guide on deployment name what exists."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

from quire import EngineConfig
from quire_server.config import ServeConfig

from .deployed import (
    CONTAINERFILE,
    DEPLOY,
    GUIDE,
    KUBERNETES,
    ROOT,
    Manifest,
    build,
    container_of,
    pod_of,
    serve_of,
    stages,
    values,
)


@pytest.fixture
def unit() -> configparser.ConfigParser:
    class Unit(configparser.ConfigParser):
        def optionxform(self, optionstr: str) -> str:
            return optionstr

    parser = Unit(strict=False, interpolation=None)
    parser.read(DEPLOY / "systemd" / "quire.service")
    return parser


def test_the_unit_lets_the_supervisor_drain(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) >= ServeConfig().drain_timeout + 15
    assert service["ExecStart"].split()[1:3] == ["serve", "--config"]


def test_the_unit_hands_the_keys_over_by_a_setting_that_exists(unit: configparser.ConfigParser) -> None:
    name, _, value = unit["Service"]["Environment"].partition("=")
    config = EngineConfig.load(sections={"serve": ServeConfig}, environ={name: value}, model="tiny")
    assert str(serve_of(config).api_key_file) == "%d/" + unit["Service"]["LoadCredential"].split(":")[0]
    assert unit["Service"]["DynamicUser"] == "yes"


def guide_blocks() -> list[Manifest]:
    """What the guide shows in YAML."""
    return [
        yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.M | re.S)
    ]


def test_the_settings_of_the_guide_are_valid(tmp_path: Path) -> None:
    shown = [block for block in guide_blocks() if "serve" in block]
    assert shown
    for block in shown:
        file = tmp_path / "quire.yaml"
        file.write_text(yaml.safe_dump(block))
        EngineConfig.load(file, sections={"serve": ServeConfig}, environ={})


def test_the_names_of_the_guide_exist() -> None:
    text = GUIDE.read_text()
    sections = {name.lower() for name in re.findall(r"QUIRE_SERVE__(\w+)", text)}
    assert sections
    assert sections <= set(ServeConfig.model_fields)
    paths = set(re.findall(r"(?<![\w./])deploy/[\w./-]+\w", text))
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    arguments = {value.split("=")[0] for stage in stages() for value in values(stage, "ARG")}
    arguments |= set(re.findall(r"^ARG (\w+)", CONTAINERFILE.read_text(), re.MULTILINE))
    assert {"PYTHON_IMAGE", "TORCH_INDEX"} <= arguments & set(re.findall(r"`([A-Z_]+)`", text))


def test_the_secret_of_the_guide_is_the_one_that_pods_mount() -> None:
    built = build(KUBERNETES / "base")
    command = re.search(r"create secret generic (\S+) \\\n(.*)", GUIDE.read_text())
    assert command is not None
    (secret,) = (volume["secret"] for volume in pod_of(built)["volumes"] if volume["name"] == "keys")
    assert command[1] == secret["secretName"]
    assert f"--from-file={secret['items'][0]['key']}=" in command[2]
    (variable,) = (item for item in container_of(built)["env"] if item["name"].startswith("QUIRE_"))
    assert f"--from-literal={variable['valueFrom']['secretKeyRef']['key']}=" in command[2]


def test_the_guides_overlay_changes_what_the_base_has() -> None:
    (overlay,) = (block for block in guide_blocks() if block.get("kind") == "Kustomization")
    built = build(KUBERNETES / "base")
    assert overlay["images"][0]["name"] == container_of(built)["image"].split(":")[0]
    assert overlay["configMapGenerator"][0]["name"] == built["ConfigMap"]["metadata"]["name"]
    assert overlay["configMapGenerator"][0]["files"] == list(built["ConfigMap"]["data"])
    (removed,) = (yaml.safe_load(patch["patch"]) for patch in overlay["patches"])
    assert removed["metadata"]["name"] == built[removed["kind"]]["metadata"]["name"]
