"""On a Ray cluster of two nodes: the answers of one process, and none lost when replicas, nodes and models go.

One story on one cluster, in the order of the file.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import torch
import torchvision
import tritonclient.http as triton
import yaml
from torch import nn

import pellucid
from pellucid.client import Client
from service.dispatch.worker import Worker
from tests.networks import images
from tests.scale.cluster import SHIPPED, RayCluster, eventually, ray_cluster
from tests.support import ROUTES, decoded_bytes, difference, photograph, post, problem, serving

CALLERS = 8
NO_IMAGE = "unsupported-media-type"
EXACT = {"precision": "fp32", "timeout_ms": "90000"}


def pets(folder: Path, version: int) -> str:
    """A small compiled network with the seed and the labels of its version; its path.

    Its norms are fitted to noise and its last weights are large: else all answers are zero, and alike.
    """
    torch.manual_seed(version)
    net = torchvision.models.mobilenet_v3_small(num_classes=3)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        net.train()(images(8))
        net.classifier[-1].weight *= 30
    path = folder / f"pets{version}.pellucid"
    labels = [f"{label} {version}" for label in ("cat", "dog", "rat")]
    pellucid.compile(net, path, labels=labels, size=64, resize=64, output="softmax", name="pets", progress=False)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pets")


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[RayCluster]:
    """Two nodes, and the first model on one of them."""
    with ray_cluster() as cluster:
        cluster.deploy(model=pets(folder, 1), **EXACT)
        cluster.running(1)
        yield cluster


@dataclass
class Seen:
    """What callers were answered: how often each version of the model, and what was no answer."""

    versions: Counter[str] = field(default_factory=Counter)
    wrong: list[Exception] = field(default_factory=list)

    @property
    def answers(self) -> int:
        return self.versions.total()

    def more(self, count: int = 50) -> None:
        """Wait for so many more answers."""
        enough = self.answers + count
        eventually(lambda: self.answers >= enough or self.wrong, lambda: str(self))


@contextmanager
def load(url: str, retries: int = 5) -> Iterator[Seen]:
    """Callers who ask one after the other, each by a client of its own; by default, with the retries that it has."""
    seen, over, cat = Seen(), threading.Event(), photograph("cat")

    def call() -> None:
        with Client(url, timeout_s=60, retries=retries) as client:
            while not over.is_set():
                try:
                    (best, *_) = client.predict(cat, top_k=1)
                    seen.versions[best.label[-1]] += 1
                except Exception as error:
                    seen.wrong.append(error)

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    try:
        yield seen
    finally:
        over.set()
        for caller in callers:
            caller.join()


def answers(url: str) -> dict[str, Any]:
    """What every route says of photographs, and of what it can't answer, without ids and times."""
    cat, found = photograph("cat"), {}
    jpeg = {"Content-Type": "image/jpeg"}
    instances = {"instances": [{"b64": b64encode(cat).decode()}]}
    with httpx.Client(base_url=url, timeout=100) as client:
        for route in ROUTES:
            found[route] = post(client, route, cat, photograph("coffee")).json()["results"]
        found["compare"] = post(client, "/v1/compare", cat, photograph("coffee")).json()["compare"]
        overlay = post(client, "/v1/grad-cam", cat, accept="image/png", overlay=1)
        found["pixels"] = decoded_bytes(overlay.content, overlay.headers["content-type"]).shape
        for route in ("/predictions/pets", "/explanations/pets"):
            found[route] = client.post(route, content=cat, headers=jpeg).json()
        for verb in ("predict", "explain"):
            found[verb] = client.post(f"/v1/models/pets:{verb}", json=instances).json()
        for route in ("/v1/models", "/v1/models/pets", "/v2", "/v2/models/pets", "/livez", "/readyz", "/openapi.json"):
            found[route] = client.get(route).json()
        found["/v1/models/pets"].get("trust", {}).pop("estimated_ms", None)  # measured by each process
        for method in found["/v1/models/pets"]["method_details"]:
            method.pop("cost_here", None)  # as well
        for route in ("/", "/docs", "/v2/health/ready", "/v2/models/pets/ready", "/assets/samples/cat.jpg"):
            found[route] = client.get(route).text
        problem(client.post("/v1/predict", content=b"text", headers={"Content-Type": "text/plain"}), 415, NO_IMAGE)
        problem(post(client, "/v1/grad-cam", cat, target="lion"), 422, "unknown-name")
        problem(client.get("/v1/nothing"), 404, "not-found")
    tensor = triton.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([cat], dtype=object))
    with triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=100) as speaker:
        found["infer"] = speaker.infer("pets", [tensor]).as_numpy("logits").tolist()
    return found


def test_every_route_answers_as_one_process_does(cluster: RayCluster, folder: Path) -> None:
    settings = {f"PELLUCID_{name.upper()}": value for name, value in EXACT.items()}
    with serving(PELLUCID_MODEL=pets(folder, 1), **settings) as alone:
        expected = answers(alone.url)
    assert difference(expected, answers(cluster.url)) is None


def test_a_caller_finds_the_request_s_id_once(cluster: RayCluster) -> None:
    for headers in ({}, {"X-Request-ID": "mine"}):
        response = httpx.post(f"{cluster.url}/v1/predict", files={"images": photograph("cat")}, headers=headers)
        assert response.headers.get_list("x-request-id") == [response.json()["request_id"]]


def test_the_proxy_passes_refusals_as_they_are(cluster: RayCluster) -> None:
    with httpx.Client(base_url=cluster.url, timeout=60) as client:
        problem(
            client.post("/v1/predict", content=bytes(33 << 20), headers={"Content-Type": "image/jpeg"}),
            413,
            "content-too-large",
        )
        problem(post(client, "/v1/explain", photograph("cat"), timeout_ms=1), 504, "deadline-exceeded")


def test_a_caller_who_leaves_is_seen_to_leave(cluster: RayCluster) -> None:
    host, port = cluster.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(
            b"POST /v1/attention HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\nhalf"
        )
        eventually(lambda: "pellucid_in_flight_bytes 4.0" in httpx.get(f"{cluster.url}/metrics").text)
    eventually(lambda: 'route="/v1/attention",status="499"} 1.0' in httpx.get(f"{cluster.url}/metrics").text)


def test_ray_s_own_metrics_hold_the_replica_s(cluster: RayCluster) -> None:
    (replica,) = cluster.replicas()
    pages = [f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in ray.nodes()]

    def counted() -> bool:
        lines = [line for page in pages for line in httpx.get(page).text.splitlines()]
        counts = [line for line in lines if line.startswith("ray_pellucid_requests_total{") and '"/v1/predict"' in line]
        return any(f'replica="{replica.name}"' in line for line in counts)

    eventually(counted)


def test_load_brings_a_second_replica_on_the_other_node(cluster: RayCluster) -> None:
    with load(cluster.url) as seen:
        replicas = cluster.running(2)
        seen.more()
    assert len({replica.node for replica in replicas}) == 2
    assert seen.wrong == []


def test_a_replica_that_is_killed_under_load_costs_no_answer_and_is_replaced(cluster: RayCluster) -> None:
    killed, other = cluster.running(2)
    with load(cluster.url) as seen:
        seen.more()
        os.kill(killed.pid, signal.SIGKILL)
        seen.more()
        replicas = cluster.running(2, without=[killed.name])
        seen.more()
    assert other in replicas
    assert seen.wrong == []


def test_a_replica_whose_engine_ends_under_load_costs_no_answer_and_is_replaced(cluster: RayCluster) -> None:
    faulty, _ = cluster.running(2)

    def end(_: Any) -> int:
        gc.unfreeze()  # frozen objects are not found
        # Its module is pellucid.service there, and Ray has a Worker, too.
        named = [found for found in gc.get_objects() if type(found).__name__ == Worker.__name__]
        workers = [found for found in named if hasattr(found, "_died")]
        for worker in workers:
            worker._died = True
        return len(workers)

    actor = ray.get_actor(faulty.actor, namespace="serve")
    with load(cluster.url) as seen:
        seen.more()
        assert ray.get(actor.__ray_call__.remote(end)) == 1
        cluster.running(2, without=[faulty.name])
        seen.more()
    assert seen.wrong == []


def test_a_node_that_is_lost_under_load_costs_no_answer_and_another_takes_its_place(cluster: RayCluster) -> None:
    (lost,) = cluster.nodes.worker_nodes
    (gone,) = [replica for replica in cluster.running(2) if replica.node == lost.node_id]
    with load(cluster.url) as seen:
        seen.more()
        cluster.nodes.remove_node(lost, allow_graceful=False)
        seen.more()
        cluster.nodes.add_node(num_cpus=1)
        cluster.running(2, without=[gone.name])
        seen.more()
    assert seen.wrong == []


def test_another_model_under_load_loses_nothing(cluster: RayCluster, folder: Path) -> None:
    old = [replica.name for replica in cluster.running(2)]
    with load(cluster.url, retries=0) as seen:
        seen.more()
        cluster.deploy(model=pets(folder, 2), **EXACT)
        cluster.running(2, without=old)
        seen.more()
    assert seen.wrong == []
    assert seen.versions["1"] >= 50
    with load(cluster.url, retries=0) as after:
        after.more()
    assert set(after.versions) == {"2"}


def test_less_load_takes_a_replica_away_and_loses_nothing(cluster: RayCluster) -> None:
    with Client(cluster.url, retries=0) as client:
        eventually(lambda: client.predict(photograph("cat")) and len(cluster.replicas()) == 1)


def test_the_manifest_for_kuberay_holds_the_shipped_file_and_the_version_that_is_installed() -> None:
    (manifest,) = yaml.safe_load_all(SHIPPED.with_name("rayservice.yaml").read_text("utf-8"))
    assert yaml.safe_load(manifest["spec"]["serveConfigV2"]) == yaml.safe_load(SHIPPED.read_text("utf-8"))
    assert manifest["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__
