"""The manifests agree with each other, with Kubernetes and with the server they deploy."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]  # it has no annotations to read
import pytest
import yaml
from starlette.testclient import TestClient

from quire_server.app import build_app
from quire_server.metrics import ServerMetrics
from quire_server.ops.front_end import front_end as ops
from quire_server.service import Service
from quire_server.testing import FakeEngine

from .deployed import (
    KUBERNETES,
    OTHERS_KINDS,
    TARGETS,
    VARIANTS,
    Manifest,
    build,
    config_of,
    container_of,
    pod_of,
    serve_of,
    values,
    variables,
)


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
