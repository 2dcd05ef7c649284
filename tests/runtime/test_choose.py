"""Which runtime is taken, and what is said of one that can't be had."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from pellucid.network.file import CompiledNetwork
from pellucid.runtime import choose
from pellucid.runtime.openvino_runtime import OpenVINORuntime
from pellucid.runtime.torch_runtime import TorchRuntime
from tests.networks import compiled

LIMIT = "OpenVINO can't compute the gradients at every layer, torch can: aten.magic.default"


def limited(*limits: str) -> CompiledNetwork:
    """The network, and what can't be asked of it."""
    net = compiled("tiny")
    return CompiledNetwork(net.manifest.model_copy(update={"limits": limits}), net.graph, net.weights)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def hide(*missing: str) -> None:
        monkeypatch.setattr(choose, "find_spec", lambda name: None if name in missing else find_spec(name))

    return hide


@pytest.fixture(autouse=True)
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_has_cuda", lambda: False)


@pytest.mark.parametrize(
    ("asked", "limits", "kind"),
    [
        ({}, (), OpenVINORuntime),
        ({}, ("methods that need a gradient are not offered: none",), OpenVINORuntime),
        ({}, (LIMIT,), TorchRuntime),
        ({"engine": "openvino"}, (LIMIT,), OpenVINORuntime),  # which predicts
        ({"engine": "openvino", "device": "cpu"}, (), OpenVINORuntime),
        ({"device": "cpu"}, (), OpenVINORuntime),
        ({"engine": "torch"}, (), TorchRuntime),
        ({"engine": "torch", "device": "cpu"}, (), TorchRuntime),
    ],
)
def test_openvino_is_taken_on_a_cpu_unless_it_cant_run_the_network(
    asked: dict[str, Any], limits: tuple[str, ...], kind: type[Any]
) -> None:
    runtime = choose.create(limited(*limits), threads=2, slots=1, precision="fp32", **asked)
    assert isinstance(runtime, kind)
    assert (runtime.facts.threads, runtime.slots, runtime.facts.precision) == (2, 1, "fp32")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_precision_that_is_asked_for_is_given(engine: choose.EngineName) -> None:
    for precision in ("fp32", "bf16"):
        runtime = choose.create(limited(), engine=engine, precision=precision, threads=1)
        assert runtime.facts.precision == precision
    assert choose.create(limited(), engine=engine, threads=1).facts.precision in ("fp32", "bf16")


def test_without_openvino_torch_is_taken(without: Callable[..., None]) -> None:
    without("openvino")
    assert isinstance(choose.create(limited(), threads=1, device="cpu"), TorchRuntime)
    with pytest.raises(ValueError, match=r"no OpenVINO engine: install it with pip install 'pellucid\[cpu\]'"):
        choose.create(limited(), engine="openvino", threads=1)


def test_without_torch_openvino_is_taken_or_the_error_says_why_torch_is_needed(without: Callable[..., None]) -> None:
    without("torch")
    assert isinstance(choose.create(limited(), threads=1), OpenVINORuntime)
    install = r"install it with pip install 'pellucid\[torch\]'"
    with pytest.raises(ValueError, match=f"torch is needed for Tiny.*: {LIMIT}; {install}"):
        choose.create(limited(LIMIT), threads=1)
    with pytest.raises(ValueError, match=install):
        choose.create(limited(), engine="torch", threads=1)
    without("torch", "openvino")
    with pytest.raises(ValueError, match=f"torch is needed or OpenVINO, to run a network; {install}"):
        choose.create(limited(), threads=1)


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no OpenVINO engine: it runs on the CPU, not on cuda"):
        choose.create(limited(), engine="openvino", device="cuda", threads=1)
    with pytest.raises(ValueError, match="there is no device cuda:99"):
        choose.create(limited(), device="cuda:99", threads=1)
    monkeypatch.setattr(choose, "_has_cuda", lambda: True)  # unless OpenVINO is asked for, a CUDA device goes first
    assert isinstance(choose.create(limited(), engine="openvino", threads=1), OpenVINORuntime)
    assert isinstance(choose.create(limited(), threads=1), TorchRuntime)
