"""What `deploy/` ships agrees with itself, with the configuration and with the checkout it is built from.

Nothing here builds an image or asks a cluster. Manifests are assembled by a small stand-in for Kustomize,
which is held to the real one where that is installed.
"""

from __future__ import annotations

import configparser
import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]  # it has no annotations to read
import pytest
import yaml
from starlette.testclient import TestClient

from quire import EngineConfig
from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.metrics import ServerMetrics
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CONTAINERFILE = DEPLOY / "Containerfile"
KUBERNETES = DEPLOY / "kubernetes"
GUIDE = ROOT / "docs" / "how-to" / "deploy.md"
VARIANTS = ["base", "overlays/cuda"]
TARGETS = ["cpu", "cuda"]
OTHERS_KINDS = {"PodMonitor"}  # custom resources: no schema comes with Kubernetes

Manifest = dict[str, Any]


# ---- the container file


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


# ---- Kubernetes


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


@pytest.fixture(params=VARIANTS)
def built(request: pytest.FixtureRequest) -> dict[str, Manifest]:
    return build(KUBERNETES / str(request.param))


@pytest.mark.parametrize("variant", VARIANTS)
def test_kustomize_builds_what_is_tested_here(variant: str) -> None:
    commands = [["kustomize", "build"], ["kubectl", "kustomize"]]
    command = next((command for command in commands if shutil.which(command[0])), None)
    if command is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    folder = KUBERNETES / variant
    output = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True, timeout=60)
    unhashed = re.sub(r"\b(quire-config)-[a-z0-9]{10}\b", r"\1", output.stdout)
    assert {manifest["kind"]: manifest for manifest in yaml.safe_load_all(unhashed)} == build(folder)


def test_kubernetes_accepts_every_manifest(built: dict[str, Manifest]) -> None:
    assert set(built) == {
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "PodMonitor",
        "Service",
        "ServiceAccount",
    }
    for kind in set(built) - OTHERS_KINDS:
        kubernetes_validate.validate(built[kind], kubernetes_validate.latest_version(), strict=True)


def test_the_validation_refuses_a_misspelt_field(built: dict[str, Manifest]) -> None:
    container_of(built)["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(built["Deployment"], kubernetes_validate.latest_version(), strict=True)


def test_the_pod_has_no_rights(built: dict[str, Manifest]) -> None:
    pod, container = pod_of(built), container_of(built)
    user, group = (int(part) for part in values("runtime", "USER")[-1].split(":"))
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert built["ServiceAccount"]["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == built["ServiceAccount"]["metadata"]["name"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_every_mount_has_its_volume_and_what_is_written_to_is_mounted(built: dict[str, Manifest]) -> None:
    volumes = {volume["name"]: volume for volume in pod_of(built)["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container_of(built)["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    image = variables("runtime")
    claim = volumes[mounts[image["HF_HOME"]]["name"]]["persistentVolumeClaim"]["claimName"]
    assert claim == built["PersistentVolumeClaim"]["metadata"]["name"]
    assert "emptyDir" in volumes[mounts[image["HOME"]]["name"]]
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
    assert volumes["config"]["configMap"]["name"] == built["ConfigMap"]["metadata"]["name"]


def test_the_configuration_is_valid_and_mounted_where_it_is_read(
    built: dict[str, Manifest], tmp_path: Path
) -> None:
    config = config_of(built, tmp_path, variables("runtime"))
    serve = serve_of(config)
    flag, path = container_of(built)["args"]
    assert flag == "--config"
    mounts = {mount["mountPath"]: mount for mount in container_of(built)["volumeMounts"]}
    assert mounts[str(Path(path).parent)]["name"] == "config"
    assert [Path(path).name] == list(built["ConfigMap"]["data"])
    assert serve.host == "0.0.0.0"
    assert config.model


def test_keys_come_from_the_secret_alone(built: dict[str, Manifest], tmp_path: Path) -> None:
    (variable,) = (item for item in container_of(built)["env"] if item["name"].startswith("QUIRE_"))
    reference = variable["valueFrom"]["secretKeyRef"]
    config = config_of(built, tmp_path, {variable["name"]: "scraper"})
    serve = serve_of(config)
    assert [key.get_secret_value() for key in serve.api_keys] == ["scraper"]
    assert config.origins()["serve.api_keys"] == variable["name"]
    assert serve.api_key_file is not None
    mounts = {mount["mountPath"]: mount for mount in container_of(built)["volumeMounts"]}
    assert mounts[str(serve.api_key_file.parent)] == {
        "name": "keys",
        "mountPath": str(serve.api_key_file.parent),
        "readOnly": True,
    }
    (secret,) = (volume["secret"] for volume in pod_of(built)["volumes"] if volume["name"] == "keys")
    assert secret["secretName"] == reference["name"]
    assert [item["path"] for item in secret["items"]] == [serve.api_key_file.name]
    assert secret["defaultMode"] & 0o007 == 0
    assert "Secret" not in built


def test_one_port_everywhere(built: dict[str, Manifest], tmp_path: Path) -> None:
    (port,) = container_of(built)["ports"]
    assert port["containerPort"] == serve_of(config_of(built, tmp_path, {})).port
    assert values("runtime", "EXPOSE") == [str(port["containerPort"])]
    (service,) = built["Service"]["spec"]["ports"]
    (scrape,) = built["PodMonitor"]["spec"]["podMetricsEndpoints"]
    (ingress,) = built["NetworkPolicy"]["spec"]["ingress"]
    probes = [container_of(built)[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    named = [service["targetPort"], scrape["port"], ingress["ports"][0]["port"], *(p["port"] for p in probes)]
    assert set(named) == {port["name"]}


def test_one_label_selects_the_pods_everywhere(built: dict[str, Manifest]) -> None:
    labels = built["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        built["Service"]["spec"]["selector"],
        built["Deployment"]["spec"]["selector"]["matchLabels"],
        built["PodMonitor"]["spec"]["selector"]["matchLabels"],
        built["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        built["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector == labels for selector in selectors)


def test_probes_ask_for_what_they_mean(built: dict[str, Manifest]) -> None:
    container = container_of(built)
    paths = {
        name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")
    }
    assert paths == {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600


@pytest.fixture
def service(built: dict[str, Manifest], tmp_path: Path) -> Service:
    """The pod's server, with the secret in place: a client's key in the file, the scraper's beside it."""
    keys = tmp_path / "api-keys"
    keys.write_text("client\n")
    environ = {"QUIRE_SERVE__API_KEY_FILE": str(keys), "QUIRE_SERVE__API_KEYS": "scraper"}
    return Service(FakeEngine(), serve_of(config_of(built, tmp_path, environ)), ServerMetrics())


def test_the_server_answers_the_probes_without_a_key_and_the_scraper_with_its_own(
    built: dict[str, Manifest], service: Service
) -> None:
    (endpoint,) = built["PodMonitor"]["spec"]["podMetricsEndpoints"]
    scheme = endpoint["authorization"]["type"]
    with TestClient(build_app(service, [ops(service)])) as client:
        for name in ("startup", "readiness", "liveness"):
            assert client.get(container_of(built)[f"{name}Probe"]["httpGet"]["path"]).status_code == 200
        assert client.get(endpoint["path"]).status_code == 401
        for key in ("scraper", "client"):
            scraped = client.get(endpoint["path"], headers={"Authorization": f"{scheme} {key}"})
            assert scraped.status_code == 200
            assert "quire_num_requests_waiting" in scraped.text


def test_a_draining_pod_is_unready_and_is_not_killed_for_it(
    built: dict[str, Manifest], service: Service
) -> None:
    container = container_of(built)
    with TestClient(build_app(service, [ops(service)])) as client:
        service.draining = True
        assert client.get(container["readinessProbe"]["httpGet"]["path"]).status_code == 503
        assert client.get(container["livenessProbe"]["httpGet"]["path"]).status_code == 200


def test_a_pod_may_drain_before_it_is_killed(built: dict[str, Manifest], tmp_path: Path) -> None:
    drain = serve_of(config_of(built, tmp_path, {})).drain_timeout
    stop = container_of(built)["lifecycle"]["preStop"]["sleep"]["seconds"]
    readiness = container_of(built)["readinessProbe"]
    assert stop >= readiness["periodSeconds"]
    assert pod_of(built)["terminationGracePeriodSeconds"] >= stop + drain + 15


def test_threads_follow_the_limit(built: dict[str, Manifest]) -> None:
    threads = {item["name"]: item.get("valueFrom") for item in container_of(built)["env"]}["OMP_NUM_THREADS"]
    assert threads == {"resourceFieldRef": {"resource": "limits.cpu"}}
    resources = container_of(built)["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"]) & set(resources["limits"])


def test_the_autoscaler_owns_the_number_of_pods(built: dict[str, Manifest]) -> None:
    assert "replicas" not in built["Deployment"]["spec"]
    spec = built["HorizontalPodAutoscaler"]["spec"]
    target = built["Deployment"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": target["kind"],
        "name": target["metadata"]["name"],
    }
    assert 1 <= spec["minReplicas"] < spec["maxReplicas"]
    assert built["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_one_pod_can_still_be_moved(built: dict[str, Manifest]) -> None:
    assert built["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_the_scraper_shows_a_key(built: dict[str, Manifest], tmp_path: Path) -> None:
    monitor = built["PodMonitor"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    assert int(endpoint["scrapeTimeout"].rstrip("s")) < int(endpoint["interval"].rstrip("s"))
    (variable,) = (item for item in container_of(built)["env"] if item["name"] == "QUIRE_SERVE__API_KEYS")
    reference = variable["valueFrom"]["secretKeyRef"]
    assert endpoint["authorization"] == {"type": "Bearer", "credentials": reference}
    assert serve_of(config_of(built, tmp_path, {})).metrics_public is False


def test_the_images_are_the_targets_of_the_container_file() -> None:
    tags = [container_of(build(KUBERNETES / variant))["image"] for variant in VARIANTS]
    assert tags == [f"quire:{target}" for target in TARGETS]


def test_the_cuda_overlay_holds_a_gpu_and_never_waits_for_a_second(tmp_path: Path) -> None:
    built = build(KUBERNETES / "overlays/cuda")
    resources = container_of(built)["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"] == "1"
    assert pod_of(built)["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert built["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}
    assert config_of(built, tmp_path, {}).device == "cuda"
    assert "nvidia.com/gpu" not in container_of(build(KUBERNETES / "base"))["resources"]["limits"]


# ---- systemd


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


# ---- the guide


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
