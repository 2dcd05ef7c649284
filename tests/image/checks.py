"""The image that the Dockerfile builds: built here without a daemon, and run as its user by its own command.

    make image-test

It takes some ten minutes, 20 GB of disk, root, buildah and debootstrap; so it is no part of `make test`. pytest
collects it by name alone.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.image import buildah
from tests.image.running import Running, running
from tests.load.test_load import test_under_load_every_answer_is_its_solo_answer as test_under_load  # noqa: F401
from tests.support import PARTS, envelope, explained, post
from tests.test_docs import free_port

# The first of them waits for the image to be built.
pytestmark = pytest.mark.timeout(3600)

UID = 10001
# Exact and patient, as the servers of all tests.
SETTINGS = {"PELLUCID_HOST": "127.0.0.1", "PELLUCID_PRECISION": "fp32", "PELLUCID_TIMEOUT_MS": "200000"}


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with buildah.built("cpu") as name:
        yield name


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    return buildah.config(image)


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[str]:
    with buildah.container(image) as name:
        yield name


@pytest.fixture(scope="module")
def root(container: str) -> Path:
    """The container's file system, in which nobody but root may write but at /tmp: as if it were read-only."""
    path = Path(buildah.buildah("mount", container))
    others = ["-xdev", "-type", "d", "-perm", "-0002", "!", "-path", f"{path}/tmp"]
    subprocess.run(["find", path, *others, "-exec", "chmod", "o-w", "{}", "+"], check=True)
    return path


@pytest.fixture(scope="module")
def served(
    container: str, config: dict[str, Any], root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """The image's server, on a port that this machine reaches. At its end it has written nothing."""
    port = str(free_port())
    with running(container, config, {**SETTINGS, "PELLUCID_PORT": port}) as found:
        began = tmp_path_factory.mktemp("image") / "began"
        began.touch()
        yield found
        assert found.stop() == 0, found.logged()
        written = ["-xdev", "-type", "f", "-newer", str(began), "!", "-path", f"{root}/tmp/*"]
        newer = subprocess.run(["find", root, *written], text=True, stdout=subprocess.PIPE, check=True)
        assert newer.stdout == ""


@pytest.fixture(scope="module")
def server(served: Running) -> str:
    return f"http://127.0.0.1:{served.environment['PELLUCID_PORT']}"


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=200) as client:
        yield client


def test_the_image_says_how_to_run_it(image: str, config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert config["User"] == str(UID)
    assert config["Entrypoint"] == ["pellucid"]  # no shell, so the process gets the signals
    assert config["Cmd"] == ["serve"]
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.title"] == "Pellucid"
    with capsys.disabled():
        print(f"\nthe image has {buildah.buildah('images', '--format', '{{.Size}}', image)}")


def test_nothing_of_the_machine_that_built_it_is_left(root: Path) -> None:
    lent = root / "etc" / "pip.conf"
    assert not lent.exists() or lent.stat().st_size == 0
    assert list((root / "opt" / "pellucid" / "cache").rglob("*.blob")) == []


def test_the_served_process_has_no_rights(served: Running) -> None:
    status = served.status()
    assert status["Uid"].split() == [str(UID)] * 4
    assert int(status["CapEff"], 16) == 0
    assert Path(f"/proc/{served.pid}/comm").read_text().strip() == "pellucid"


def test_it_is_live_and_ready(client: httpx.Client, served: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.get("/livez").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    with capsys.disabled():
        print(f"\nready after {served.ready_s:.1f} s")


def test_its_networks_were_converted_when_it_was_built(client: httpx.Client, served: Running) -> None:
    assert client.get("/v1/models/lite0").json()["engine"].startswith("OpenVINO")
    assert "is not kept" not in served.logged()


def test_it_explains_a_photograph(client: httpx.Client, cat: bytes) -> None:
    result = explained(client, "/v1/explain", cat)
    assert {part for part in PARTS["/v1/explain"] if getattr(result, part)} == PARTS["/v1/explain"]
    assert result.predictions is not None
    assert result.predictions[0].label == "Egyptian cat"


@pytest.mark.usefixtures("root")
def test_without_a_network_it_is_healthy_until_it_stops(container: str, config: dict[str, Any]) -> None:
    probe = config["Healthcheck"]["Test"][1:]
    with running(container, config, {}, offline=True) as alone:  # with the environment of the image and nothing else
        assert alone.healthcheck(probe)
        assert alone.stop() == 0, alone.logged()
        assert not alone.healthcheck(probe)


def test_on_sigterm_it_answers_what_it_accepted_and_exits_with_0(
    container: str, config: dict[str, Any], cat: bytes
) -> None:
    port = str(free_port())
    answers: list[httpx.Response] = []
    with (
        running(container, config, {**SETTINGS, "PELLUCID_PORT": port}) as served,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=200) as client,
    ):
        asked = threading.Thread(target=lambda: answers.append(post(client, "/v1/explain", *[cat] * 32)))
        asked.start()
        while "pellucid_in_flight_images 0.0" in httpx.get(f"http://127.0.0.1:{port}/metrics").text:
            time.sleep(0.01)
        assert served.stop() == 0, served.logged()
        asked.join()
    assert len(envelope(answers[0]).results) == 32
