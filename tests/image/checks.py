"""The image that the Dockerfile builds: built here without a daemon, and run as its user by its own command.

    make image-test

It takes some ten minutes, 20 GB of disk, root, buildah and debootstrap; so it is no part of `make test`. pytest
collects it by name alone.
"""

from __future__ import annotations

import os
import shutil
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
from tests.load.test_load import assert_answers_under_load_are_solo_answers
from tests.support import PARTS, envelope, explained, post
from tests.test_docs import free_port

# The first of them waits for the image to be built.
pytestmark = pytest.mark.timeout(3600)

UID = 10001
ENVIRONMENT = Path("opt", "pellucid")
# All that is in the image, its base included.
MOST_BYTES = 700_000_000
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
    """The container's file system, in which nobody but root may write: as if it were read-only."""
    path = Path(buildah.buildah("mount", container))
    subprocess.run(
        ["find", path, "-xdev", "-type", "d", "-perm", "-0002", "-exec", "chmod", "o-w", "{}", "+"], check=True
    )
    return path


@pytest.fixture
def kept(root: Path) -> Iterator[Path]:
    """A folder in the container in which its user may write, as a volume is."""
    folder = root / "kept"
    folder.mkdir()
    os.chown(folder, UID, UID)
    yield folder
    shutil.rmtree(folder)


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
        written = ["-xdev", "-type", "f", "-newer", str(began)]
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


def test_it_is_small(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packages = _packages(root)
    parts = {"all": root, "packages": packages, "OpenVINO": packages / "openvino", "networks": _networks(root)}
    sizes = {name: _bytes(path) for name, path in parts.items()}
    with capsys.disabled():
        print("\n" + ", ".join(f"{name}: {size / 1e6:.0f} MB" for name, size in sizes.items()))
    assert sizes["all"] <= MOST_BYTES


def test_nothing_is_in_it_that_only_building_needs(root: Path) -> None:
    assert (_packages(root) / "openvino").is_dir()
    assert [path for name in ("torch*", "nvidia*", "triton*", "pip*") for path in _packages(root).glob(name)] == []
    programs = {path.name for path in root.glob("**/bin/*")}
    assert {"python3", "pellucid"} <= programs
    assert programs.isdisjoint({"cc", "gcc", "c++", "g++", "ld", "make", "pip", "nvcc"})
    assert [path for path in root.glob("**/lib*.so*") if path.name.startswith(("libcu", "libtorch", "libnv"))] == []


def test_nothing_of_the_machine_that_built_it_is_left(root: Path) -> None:
    lent = root / "etc" / "pip.conf"
    assert not lent.exists() or lent.stat().st_size == 0
    assert list((root / ENVIRONMENT).rglob("*.blob")) == []


def test_the_served_process_has_no_rights(served: Running) -> None:
    status = served.status()
    assert status["Uid"].split() == [str(UID)] * 4
    assert int(status["CapEff"], 16) == 0
    assert Path(f"/proc/{served.pid}/comm").read_text().strip() == "pellucid"


def test_it_is_live_and_ready(client: httpx.Client, served: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.get("/livez").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    with capsys.disabled():
        print(f"\nready after {served.ready_s:.1f} s with {served.status()['VmRSS']}")


def test_its_network_was_compiled_when_it_was_built(client: httpx.Client, served: Running) -> None:
    assert client.get("/v1/models/lite0").json()["engine"].startswith("OpenVINO")
    assert "WARNING" not in served.logged().upper()


def test_it_serves_its_other_network_by_its_file(container: str, config: dict[str, Any], root: Path) -> None:
    (other,) = _networks(root).glob("lite0-plain.pellucid")
    settings = {"PELLUCID_MODEL": f"/{other.relative_to(root)}"}
    with running(container, config, settings, offline=True) as alone:
        assert "lite0-plain runs on OpenVINO" in alone.logged()


def test_it_explains_a_photograph(client: httpx.Client, cat: bytes) -> None:
    result = explained(client, "/v1/explain", cat)
    assert {part for part in PARTS["/v1/explain"] if getattr(result, part)} == PARTS["/v1/explain"]
    assert result.predictions is not None
    assert result.predictions[0].label == "Egyptian cat"


def test_under_load_every_answer_is_its_solo_answer(
    server: str, served: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_answers_under_load_are_solo_answers(server, capsys)
    with capsys.disabled():
        print(f"at most {served.status()['VmHWM']} resident")


def test_what_openvino_compiles_is_kept_where_it_may_be(container: str, config: dict[str, Any], kept: Path) -> None:
    def kept_after_a_start() -> dict[Path, int]:
        with running(container, config, {"PELLUCID_CACHE_DIR": f"/{kept.name}"}, offline=True) as alone:
            assert alone.stop() == 0, alone.logged()
            assert "is not writable" not in alone.logged()
        return {blob: blob.stat().st_mtime_ns for blob in kept.rglob("*.blob")}

    first = kept_after_a_start()
    assert first
    assert kept_after_a_start() == first  # read, and not written anew


@pytest.mark.usefixtures("root")
def test_a_cache_that_can_not_be_written_costs_the_start_no_more_than_time(
    container: str, config: dict[str, Any]
) -> None:
    settings = {"PELLUCID_CACHE_DIR": "/opt/pellucid/cache"}
    with running(container, config, settings, offline=True) as alone:
        assert "is not writable" in alone.logged()
        assert alone.healthcheck(config["Healthcheck"]["Test"][1:])


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


def _packages(root: Path) -> Path:
    (found,) = (root / ENVIRONMENT).glob("lib/python3*/site-packages")
    return found


def _networks(root: Path) -> Path:
    return root / ENVIRONMENT / "networks"


def _bytes(folder: Path) -> int:
    done = subprocess.run(["du", "-sbx", folder], text=True, stdout=subprocess.PIPE, check=True)
    return int(done.stdout.split()[0])
