"""If a network can't be compiled, differentiated or run by OpenVINO, one sentence says why."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from pellucid.compiler.compiling import CompileError, compile_network
from pellucid.network.file import CompiledNetwork
from pellucid.network.spec import ModelSpec, PreprocessSpec
from pellucid.runtime.aten_to_openvino import UnsupportedError
from pellucid.runtime.openvino_runtime import OpenVINORuntime
from pellucid.runtime.torch_runtime import TorchRuntime

SIDE, CLASSES = 16, 3


class _Net(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.classifier = nn.Linear(4, CLASSES)
        self._between = [between]

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self._between[0](self.first(x)).relu())
        return self.classifier(x.relu().mean((2, 3)))  # type: ignore[no-any-return]


def _compiled(between: Callable[[Tensor], Tensor]) -> tuple[_Net, CompiledNetwork]:
    net = _Net(between)
    spec = PreprocessSpec((SIDE, SIDE), SIDE, "bilinear", (0.5,) * 3, (0.25,) * 3)
    return net, compile_network(net, ModelSpec("net", "", ("a", "b", "c"), spec, ""), None)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.round()


@fx.wrap
def rounded(x: Tensor) -> Tensor:
    return _Rounded.apply(x)  # type: ignore[no-any-return]


@fx.wrap
def zeta(x: Tensor) -> Tensor:
    found: Tensor = torch.special.zeta(x.abs() + 2, torch.ones_like(x))
    return found


@fx.wrap
def doubled_in_part(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 0] *= 2
    return x


@fx.wrap
def read_by_memory(x: Tensor) -> Tensor:
    return x.as_strided(x.shape, x.stride())


def _sorted(x: Tensor) -> Tensor:
    return torch.sort(x, 3)[0]


def _predicts(net: _Net, network: CompiledNetwork) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    logits = network.manifest.logits
    found, _ = TorchRuntime(network, torch.device("cpu")).run(images, None, [logits], "exact")
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(found[logits], net(pixels).detach().numpy(), rtol=1e-4, atol=1e-5)


# Called by their module names, because torch.fx wraps those.
WITHOUT_GRADIENT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a function without backward": (lambda x: rounded(x), "You must implement either the backward or vjp method"),
    "an operation without a derivative": (lambda x: zeta(x), "the derivative for 'zeta' is not implemented"),
    "a write to a part": (lambda x: doubled_in_part(x), "it writes to a part of a tensor"),
}


@pytest.mark.parametrize("kind", WITHOUT_GRADIENT)
def test_a_network_without_a_gradient_predicts_and_says_why(kind: str) -> None:
    between, reason = WITHOUT_GRADIENT[kind]
    net, network = _compiled(between)
    _predicts(net, network)
    assert all(value.gradient is None for value in network.manifest.values.values())
    limit = network.manifest.limits[0]
    assert limit.startswith(f"methods that need a gradient are not offered: _Net has no gradient: {reason}")


def test_a_zero_gradient_has_one_row_per_wanted_row() -> None:
    _, network = _compiled(torch.round)
    runtime = TorchRuntime(network, torch.device("cpu"))
    gradient = network.manifest.values["first"].gradient
    assert gradient is not None
    found, _ = runtime.run(
        np.zeros((1, SIDE, SIDE, 3), np.uint8), np.eye(CLASSES, dtype=np.float32), [gradient], "exact"
    )
    assert found[gradient].shape == (CLASSES, 4, SIDE, SIDE)
    assert not found[gradient].any()


def test_an_operation_that_openvino_lacks_is_named_and_torch_runs_it() -> None:
    net, network = _compiled(_sorted)
    _predicts(net, network)
    assert network.manifest.values["second"].gradient is not None
    (limit,) = network.manifest.limits
    assert limit == "OpenVINO can't run the network, torch can: aten.sort.default"
    runtime = OpenVINORuntime(network, bf16=False, threads=1)
    with pytest.raises(UnsupportedError, match=r"aten\.sort\.default"):
        runtime.run(np.zeros((1, SIDE, SIDE, 3), np.uint8), None, [network.manifest.logits], "exact")


def test_a_forward_that_reads_numbers_of_its_input_is_refused_by_operation() -> None:
    with pytest.raises(CompileError, match=r"_local_scalar_dense.* compute with tensors"):
        _compiled(lambda x: x * x.mean().item())


def test_a_forward_that_depends_on_the_memory_format_is_refused_by_operation() -> None:
    with pytest.raises(CompileError, match=r"by its order in memory \(aten\.as_strided"):
        _compiled(lambda x: read_by_memory(x))
