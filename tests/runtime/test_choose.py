"""The choice of a runtime, and the errors if it is not available."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from pellucid.network.file import CompiledNetwork
from pellucid.network.graph import Graph, Node, Ref
from pellucid.runtime import choose
from pellucid.runtime.openvino_runtime import OpenVINORuntime
from pellucid.runtime.torch_runtime import TorchRuntime
from tests.networks import compiled


def limited(*operations: str) -> CompiledNetwork:
    """A network with these additional operations."""
    net = compiled("tiny")
    nodes = [*net.graph.nodes.values(), *(Node(name, name, (Ref("pixels"),), {}) for name in operations)]
    return CompiledNetwork(net.manifest, Graph(nodes), net.weights)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def hide(*missing: str) -> None:
        monkeypatch.setattr(choose, "find_spec", lambda name: None if name in missing else find_spec(name))

    return hide


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_has_cuda", lambda: False)


@pytest.mark.parametrize(
    ("asked", "operations", "kind"),
    [
        ({}, (), OpenVINORuntime),
        ({}, ("aten.magic.default",), TorchRuntime),
        ({"engine": "openvino", "device": "cpu"}, (), OpenVINORuntime),
        ({"device": "cpu"}, (), OpenVINORuntime),
        ({"engine": "torch"}, (), TorchRuntime),
        ({"engine": "torch", "device": "cpu"}, (), TorchRuntime),
    ],
)
def test_openvino_is_chosen_on_a_cpu_unless_it_cant_run_the_network(
    asked: dict[str, Any], operations: tuple[str, ...], kind: type[Any]
) -> None:
    runtime = choose.create(limited(*operations), threads=2, slots=1, precision="fp32", **asked)
    assert isinstance(runtime, kind)
    assert (runtime.info.threads, runtime.slots, runtime.info.precision) == (2, 1, "fp32")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_an_explicit_precision_is_used(engine: choose.EngineName) -> None:
    for precision in ("fp32", "bf16"):
        runtime = choose.create(limited(), engine=engine, precision=precision, threads=1)
        assert runtime.info.precision == precision
    assert choose.create(limited(), engine=engine, threads=1).info.precision in ("fp32", "bf16")


def test_without_openvino_torch_is_chosen(without: Callable[..., None]) -> None:
    without("openvino")
    assert isinstance(choose.create(limited(), threads=1, device="cpu"), TorchRuntime)
    with pytest.raises(ValueError, match=r"no OpenVINO engine: install it with pip install 'pellucid\[cpu\]'"):
        choose.create(limited(), engine="openvino", threads=1)


def test_without_torch_openvino_is_chosen_or_the_error_says_why_torch_is_needed(without: Callable[..., None]) -> None:
    without("torch")
    assert isinstance(choose.create(limited(), threads=1), OpenVINORuntime)
    needed = r"no operation for aten\.magic\.default, so TinyNet needs torch: pip install 'pellucid\[torch\]'"
    with pytest.raises(ValueError, match=needed):
        choose.create(limited("aten.magic.default"), threads=1)
    install = r"no torch engine: install it with pip install 'pellucid\[torch\]'"
    with pytest.raises(ValueError, match=install):
        choose.create(limited(), engine="torch", threads=1)
    without("torch", "openvino")
    with pytest.raises(ValueError, match=install):
        choose.create(limited(), threads=1)


def test_openvino_is_refused_for_a_network_that_it_cant_run() -> None:
    with pytest.raises(ValueError, match=r"OpenVINO can't run TinyNet: it has no operation for aten\.magic\.default"):
        choose.create(limited("aten.magic.default"), engine="openvino", threads=1)


def test_a_missing_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no OpenVINO engine: it runs on the CPU, not on cuda"):
        choose.create(limited(), engine="openvino", device="cuda", threads=1)
    with pytest.raises(ValueError, match="there is no device cuda:99"):
        choose.create(limited(), device="cuda:99", threads=1)
    monkeypatch.setattr(choose, "_has_cuda", lambda: True)  # auto prefers a CUDA device
    assert isinstance(choose.create(limited(), engine="openvino", threads=1), OpenVINORuntime)
    assert isinstance(choose.create(limited(), threads=1), TorchRuntime)
