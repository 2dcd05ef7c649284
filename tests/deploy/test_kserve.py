"""KServe takes the manifests, and they say of the service what is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import yaml

from service.config import Settings
from tests.support import REPOSITORY

# Its "$comment" says of which version.
CRDS: dict[str, Any] = json.loads(Path(__file__).with_name("kserve_crds.json").read_text("utf-8"))
MANIFESTS: list[dict[str, Any]] = [
    manifest
    for path in sorted((REPOSITORY / "deploy" / "kserve").glob("*.yaml"))
    for manifest in yaml.safe_load_all(path.read_text("utf-8"))
]
EXPLAINED, RUNTIME = MANIFESTS[0], MANIFESTS[-1]
CONTAINERS = [RUNTIME["spec"]["containers"][0], EXPLAINED["spec"]["explainer"]["containers"][0]]
# KServe's ExplainPrefix: the paths that it sends to the explainer.
EXPLAIN = r"^/v1/models/[\w-]+:explain$"


@pytest.mark.parametrize("manifest", MANIFESTS, ids=[each["kind"] for each in MANIFESTS])
def test_kserve_takes_every_manifest(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, CRDS[manifest["kind"]])


def test_a_wrong_manifest_would_be_told() -> None:
    wrong = {**RUNTIME, "spec": {**RUNTIME["spec"], "protocolVersion": ["v2"]}}
    with pytest.raises(jsonschema.ValidationError, match="protocolVersion"):
        jsonschema.validate(wrong, CRDS["ClusterServingRuntime"])


@pytest.mark.parametrize("container", CONTAINERS, ids=["runtime", "explainer"])
def test_the_container_has_settings_probes_and_time_to_stop(
    container: dict[str, Any], client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entry in container["env"]:
        assert (
            entry["name"] == "STORAGE_URI" or entry["name"].removeprefix("PELLUCID_").lower() in Settings.model_fields
        )
        monkeypatch.setenv(entry["name"], entry["value"])
    chosen = Settings()
    assert chosen.port == 8080  # KServe's default
    assert chosen.drain_delay_s + chosen.grace_s + 5 < 30
    for probe in {"startupProbe", "readinessProbe", "livenessProbe"} & container.keys():
        assert client.get(container[probe]["httpGet"]["path"]).status_code == 200
        assert container[probe]["httpGet"]["port"] == chosen.port


def test_grpc_is_at_the_port_that_the_service_names() -> None:
    (grpc,) = [each["spec"]["predictor"]["model"] for each in MANIFESTS if "grpc" in each["metadata"]["name"]]
    settings = {entry["name"]: entry["value"] for entry in CONTAINERS[0]["env"]}
    assert [str(port["containerPort"]) for port in grpc["ports"]] == [settings["PELLUCID_GRPC_PORT"]]
    assert grpc["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]


def test_the_route_of_the_explainer_is_a_route_of_the_service(client: httpx.Client) -> None:
    path = f"/v1/models/{EXPLAINED['metadata']['name']}:explain"
    assert re.fullmatch(EXPLAIN, path)
    assert "is served" in client.post(path, json={"instances": []}).json()["error"]
