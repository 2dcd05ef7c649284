"""One real server for all tests that speak HTTP, and the sample photographs."""

# ruff: noqa: E402
from __future__ import annotations

import gc
import os
import sys

# Several files are tested at once, each by one thread, unless the environment has another number. Libraries read these
# as they are imported; servers inherit them.
THREADS = os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, THREADS)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a command takes more threads, none waits busily
# glibc keeps what arrays leave for the next: to give it back and page-fault it in again took a tenth of some files.
os.environ |= {"MALLOC_TRIM_THRESHOLD_": str(2**27), "MALLOC_MMAP_THRESHOLD_": str(2**25)}

# Collecting the tests loads modules that stay. Without this the collector searches them over and over: two seconds.
gc.disable()
# The tests start some hundred processes that load the same files. Where this is set, each would compile them anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import pellucid
from tests.support import Server, compiled, explained, photograph, resident, serving

# What takes longest, the longest first. It starts first, so that no process is left with a long one at the end.
SLOW = (
    "tests/browser",
    "tests/test_docs.py",
    "tests/compiler",
    "tests/explain",
    "tests/commands",
    "tests/routes",
    "tests/flow",
    "tests/test_tries.py",
    "tests/library",
    "tests/models",
    "tests/http",
    "tests/runtime",
    "tests/test_notebook.py",
    "tests/test_wheel.py",
)


grown_from = 0


def portion(nodeid: str) -> str:
    """What one process tests whole: a folder, whose files share networks, a server and a browser, or a file outside."""
    file = nodeid.partition("::")[0]
    folder = file.rpartition("/")[0]
    return file if folder == "tests" else folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the portions by ``SLOW``. Within one, the order stays."""
    rank = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(portion(item.nodeid), len(rank)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    scheduling = LoadFileScheduling(config, log)
    scheduling._split_scope = portion
    return scheduling


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """What is loaded stays, and is not searched again. What the tests make is searched rarely: it took a tenth."""
    global grown_from
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)
    gc.enable()
    grown_from = resident()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    """Collect once memory has grown: a runtime refers to itself, with all weights of its network."""
    global grown_from
    if resident() > grown_from + 2**29:
        for cached in vars(sys.modules.get("fastapi.dependencies.models", sys)).values():  # keeps each app's routes
            getattr(cached, "cache_clear", int)()
        gc.collect()
        grown_from = resident()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """An engine of another test may have left torch with more."""
    import torch  # not above: the process that only distributes the tests needs none

    torch.set_num_threads(int(THREADS))


@pytest.fixture(scope="session")
def process() -> Iterator[Server]:
    """A server of two networks that is exact, and patient, so that a busy machine fails no test."""
    patient = {"PELLUCID_PRECISION": "fp32", "PELLUCID_TIMEOUT_MS": "200000"}
    with serving(PELLUCID_MODELS="lite0-plain", PELLUCID_GRPC_PORT="0", **patient) as server:
        yield server


@pytest.fixture(scope="session")
def server(process: Server) -> str:
    """Its base URL."""
    return process.url


@pytest.fixture(scope="session")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, timeout=200) as client:
        yield client


@pytest.fixture(scope="session")
def lite0() -> pellucid.Network:
    """The library's network, exact as the server's."""
    return pellucid.open(compiled("lite0"), precision="fp32", threads=1)


@pytest.fixture(scope="session")
def cat() -> bytes:
    """451 x 300 pixels of a tabby's face."""
    return photograph("cat")


@pytest.fixture(scope="session")
def coffee() -> bytes:
    """600 x 400 pixels of an espresso."""
    return photograph("coffee")


@pytest.fixture(scope="session")
def rocket() -> bytes:
    """640 x 427 pixels of a rocket at its launch pad."""
    return photograph("rocket")


@pytest.fixture
def frozen_heap() -> None:
    """As `serve` does it: else the collector stops the event loop to search what all the other tests have loaded."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def predicted(client: httpx.Client, cat: bytes) -> list[Any]:
    """What /v1/predict says of the cat."""
    return list(explained(client, "/v1/predict", cat).predictions or [])
