"""The manifests are what a cluster takes, and say of the service what is true."""

from __future__ import annotations

from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from service.config import Settings
from tests.support import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text("utf-8"))
MANIFESTS: dict[str, Any] = {
    manifest["kind"]: manifest
    for name in KUSTOMIZATION["resources"]
    for manifest in yaml.safe_load_all((FOLDER / name).read_text("utf-8"))
}
# Not of Kubernetes itself, so no schema comes with it.
CUSTOM = {"ServiceMonitor"}
# The oldest that has the sleep of preStop without a gate, and the newest that the schemas know.
VERSIONS = ("1.30", kubernetes_validate.latest_version())

POD: dict[str, Any] = MANIFESTS["Deployment"]["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
(SETTINGS,) = KUSTOMIZATION["configMapGenerator"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", sorted(MANIFESTS.keys() - CUSTOM))
def test_a_cluster_takes_every_manifest(kind: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_a_wrong_manifest_would_be_told() -> None:
    wrong = {**MANIFESTS["Service"], "spec": {**MANIFESTS["Service"]["spec"], "port": 80}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_every_manifest_of_the_folder_is_applied() -> None:
    assert {path.name for path in FOLDER.glob("*.yaml")} == {*KUSTOMIZATION["resources"], "kustomization.yaml"}


def test_the_settings_are_settings_and_their_values_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CONTAINER["envFrom"][0]["configMapRef"]["name"] == SETTINGS["name"]
    for literal in SETTINGS["literals"]:
        name, _, value = literal.partition("=")
        assert name.removeprefix("PELLUCID_").lower() in Settings.model_fields
        monkeypatch.setenv(name, value)
    chosen = Settings()
    assert chosen.host == "0.0.0.0"
    assert {port["name"]: port["containerPort"] for port in CONTAINER["ports"]} == {
        "http": chosen.port,
        "grpc": chosen.grpc_port,
    }
    # A Service of this name would give its pods PELLUCID_PORT=tcp://...
    assert POD["spec"]["enableServiceLinks"] is False


def test_the_pod_is_given_longer_than_the_service_takes_to_stop() -> None:
    literals = dict(literal.split("=", 1) for literal in SETTINGS["literals"])
    service = float(literals["PELLUCID_DRAIN_DELAY_S"]) + float(literals["PELLUCID_GRACE_S"]) + 5
    before = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    # The endpoints must have lost the pod, which readiness would say in so many seconds, before it says no.
    readiness = CONTAINER["readinessProbe"]
    assert before >= readiness["periodSeconds"] * readiness["failureThreshold"]
    assert POD["spec"]["terminationGracePeriodSeconds"] > before + service


@pytest.mark.parametrize(("probe", "path"), [("startup", "/readyz"), ("readiness", "/readyz"), ("liveness", "/livez")])
def test_the_probes_ask_routes_that_answer(client: httpx.Client, probe: str, path: str) -> None:
    asked = CONTAINER[f"{probe}Probe"]["httpGet"]
    assert asked == {"path": path, "port": "http"}
    assert client.get(path).json() == {"status": "ok"}


def test_the_process_has_no_rights() -> None:
    pod, container = POD["spec"]["securityContext"], CONTAINER["securityContext"]
    assert pod["runAsNonRoot"]
    assert f"USER {pod['runAsUser']}\n" in (REPOSITORY / "Dockerfile").read_text("utf-8")
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readOnlyRootFilesystem"]
    assert "volumeMounts" not in CONTAINER  # it writes nothing
    assert container["allowPrivilegeEscalation"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_all_of_them_select_the_pods() -> None:
    labels = POD["metadata"]["labels"]
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    for kind, place in (
        ("Deployment", "selector"),
        ("PodDisruptionBudget", "selector"),
        ("NetworkPolicy", "podSelector"),
    ):
        assert MANIFESTS[kind]["spec"][place]["matchLabels"] == labels, kind
    monitor = MANIFESTS["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"] == MANIFESTS["Service"]["metadata"]["labels"]
    ports = MANIFESTS["Service"]["spec"]["ports"]
    assert [(end["port"], end["path"]) for end in monitor["endpoints"]] == [(ports[0]["name"], "/metrics")]
    assert [port["targetPort"] for port in ports] == [port["name"] for port in CONTAINER["ports"]]


def test_the_autoscaler_counts_what_waits_for_the_network(client: httpx.Client) -> None:
    spec = MANIFESTS["HorizontalPodAutoscaler"]["spec"]
    target = MANIFESTS["Deployment"]
    assert spec["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": target["kind"],
        "name": target["metadata"]["name"],
    }
    assert "replicas" not in target["spec"]  # else every `apply` would undo what the autoscaler chose
    pods, processor = spec["metrics"]
    told = client.get("/metrics").text
    assert f"\n{pods['pods']['metric']['name']}{{" in told
    assert f'\npellucid_batch_limit_images{{model="lite0"}} {float(pods["pods"]["target"]["averageValue"])}\n' in told
    assert processor["resource"]["name"] in CONTAINER["resources"]["requests"]  # what its share is taken of
