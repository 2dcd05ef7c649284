"""``pellucid.compile`` of a user's own class, called from a training script."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn

import pellucid
from pellucid.compiler.compiling import CompileError, _is_derivative, compile_network
from pellucid.explain.methods.gradient import grad_cam
from pellucid.network.file import load
from pellucid.types import Plan
from tests.explain.passes import Passes, evidence_at
from tests.networks import PREPROCESS, in_memory

SIZE = (32, 32)
SMALL = replace(PREPROCESS, size=SIZE)
LABELS = ["cat", "dog", "rat", "owl"]


class ChannelGate(nn.Module):
    """CBAM's channel gate: one perceptron for each channel's mean and maximum (Woo et al., arXiv 1807.06521)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))
        return x * scale[:, :, None, None]


class SpatialGate(nn.Module):
    """CBAM's spatial gate: one number per position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat((x.mean(1, keepdim=True), x.amax(1, keepdim=True)), 1)
        return x * torch.sigmoid(self.conv(seen))


class Pets(nn.Module):
    """A small network with residual blocks and CBAM, as a user would write it."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.down, self.block = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.channels, self.places = ChannelGate(16), SpatialGate()
        self.dropout, self.classifier = nn.Dropout(0.5), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.stem(x))
        x = torch.relu(x + self.places(self.channels(self.block(x))))
        logits: Tensor = self.classifier(self.dropout(x.mean((2, 3))))
        return logits


def trained(net: Pets) -> Pets:
    """The network after one training step, still in training mode."""
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    pixels = torch.randn(8, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    nn.functional.cross_entropy(net(pixels), torch.arange(8) % 4).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return net.train()


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def test_compiling_leaves_the_network_unchanged(tmp_path: Path) -> None:
    net = trained(Pets())
    net.classifier.bias.requires_grad_(False)
    net.register_forward_hook(lambda *_: None)
    state, modes = copy.deepcopy(net.state_dict()), [module.training for module in net.modules()]
    frozen = [parameter.requires_grad for parameter in net.parameters()]
    gradients = [parameter.grad for parameter in net.parameters()]
    found = pellucid.compile(
        net, tmp_path / "pets.pellucid", labels=LABELS, size=SIZE, output="softmax", progress=False
    )
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == frozen
    assert all(parameter.grad is gradient for parameter, gradient in zip(net.parameters(), gradients, strict=True))
    assert net.get_submodule("stem.2").inplace
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name])
    trained(net)  # later training does not change the file
    assert (found.model.name, found.model.title, found.model.labels) == ("pets", "Pets", tuple(LABELS))
    assert found.digest == load(tmp_path / "pets.pellucid").digest
    np.testing.assert_array_equal(
        load(tmp_path / "pets.pellucid").weights["classifier.weight"], state["classifier.weight"]
    )
    np.testing.assert_array_equal(found.weights["classifier.weight"], state["classifier.weight"])


def test_the_file_holds_the_preprocessing(tmp_path: Path) -> None:
    options: dict[str, Any] = {"labels": LABELS, "output": "softmax", "progress": False}
    path = tmp_path / "folder" / "pets.pellucid"
    square = pellucid.compile(Pets(), path, size=32, **options).model.preprocess
    assert (square.size, square.resize, square.squash, square.interpolation) == ((32, 32), 37, False, "bilinear")
    assert load(path).model.preprocess == square
    said: dict[str, Any] = {
        "mean": (0, 0, 0),
        "std": (1, 1, 2),
        "resize": 40,
        "squash": True,
        "interpolation": "bicubic",
    }
    named = pellucid.compile(
        Pets(), path, size=(32, 40), name="zoo", title="Of a zoo", source="here", **said, **options
    ).model
    assert (named.name, named.title, named.source) == ("zoo", "Of a zoo", "here")
    given = named.preprocess
    assert (given.size, given.resize, given.mean, given.std) == ((32, 40), 40, (0.0, 0.0, 0.0), (1.0, 1.0, 2.0))
    assert given.squash
    with pytest.raises(CompileError, match=r"^pets takes 3 channels, not 1 \(gray\): give mean and std"):
        pellucid.compile(Pets(), path, size=32, mean=[0.5], **options)
    assert load(path).model == named  # the earlier file is still there


def test_cbams_gates_are_found() -> None:
    """The channel gate's weights are the factors of the channels, the spatial gate's those of the positions."""
    net = Pets().eval().double()
    found = in_memory(net, SMALL)
    (gate,) = found.spec.gates
    assert (gate.layer, gate.type, gate.before, gate.after, gate.squash) == (
        "channels",
        "ChannelGate",
        "block",
        "channels",
        "sigmoid",
    )
    (spatial,) = found.spec.spatial_gates
    assert (spatial.layer, spatial.type, spatial.before, spatial.after) == (
        *("places", "SpatialGate"),
        *("channels", "places"),
    )
    passes = Passes(found, pictures(2))
    weights = passes.value(found.manifest.gate_values["channels"].node)
    np.testing.assert_allclose(passes.map("block") * weights.reshape(2, 16, 1, 1), passes.map("channels"), rtol=1e-9)
    (outcome, _) = passes.run(*[Plan(gates=True, effects=True, targets=(2,))] * 2)
    (places,) = outcome.spatial_gates
    assert places.weights.shape == (8, 8)
    np.testing.assert_allclose(passes.map("channels")[0] * places.weights, passes.map("places")[0], rtol=1e-9)
    assert outcome.gates[0].effects is not None
    leaf = torch.from_numpy(passes.map("channels")[:1]).requires_grad_()
    handle = net.channels.register_forward_hook(lambda *_: leaf)
    (gradient,) = torch.autograd.grad(net(pictures(2)[:1])[0, 2], leaf)
    handle.remove()
    np.testing.assert_allclose(outcome.gates[0].effects, (gradient * leaf).sum((0, 2, 3)).detach(), rtol=1e-9)


def test_grad_cam_equals_captums_at_every_layer() -> None:
    net = trained(Pets()).eval().double()
    found = in_memory(net, SMALL)
    modules = dict(net.named_modules())
    layers = [layer.name for layer in found.spec.layers if layer.name in modules]
    assert {"stem", "down", "block", "channels", "places"} <= {*layers}
    layers.remove("stem.1")  # a hook sees the value that overwrites it
    targets = [[3, 0], [1]]
    for layer in layers:
        oracle = LayerGradCam(net, modules[layer])
        for image, evidence in enumerate(evidence_at(found, layer, pictures(2), targets)):
            for target, heat in zip(targets[image], grad_cam(evidence), strict=True):
                expected = oracle.attribute(pictures(2)[image : image + 1], target=target)[0, 0].detach().numpy()
                np.testing.assert_allclose(heat, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_float16_network_is_compiled_in_float32() -> None:
    half = Pets().eval().half()
    found = compile_network(half, in_memory(Pets(), SMALL).model, None)
    assert {weight.dtype.name for name, weight in found.weights.items() if name in dict(half.named_parameters())} == {
        "float32"
    }
    assert next(half.parameters()).dtype == torch.float16
    with torch.no_grad():
        expected = copy.deepcopy(half).float()(pictures(2).float())
    np.testing.assert_allclose(Passes(found, pictures(2).float()).logits, expected, atol=1e-5)


class Branching(Pets):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(-x if x.mean() > 0 else x)


class Company(Pets):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class Pair(Pets):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x), x  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("net", "labels", "message"),
    [
        (Pets(), LABELS[:3], "^pets has 4 classes, and 3 labels are given$"),
        (
            Pets(1),
            LABELS[:1],
            "Pets returns a single number, whose softmax is always 1. Declare the output: sigmoid for a label that "
            "applies or not, or linear for a quantity.$",
        ),
        (
            Branching(),
            LABELS,
            "^pets can't be compiled: Branching can't be traced with pixels of 32x32: it branches on",
        ),
        (Company(), LABELS, "it computes other logits for an image beside other images: use no statistics"),
        (Pair(), LABELS, "^pets can't be compiled: Pair returns a tuple: it must return one tensor"),
        (
            nn.Conv2d(3, 8, 3),
            LABELS,
            r"Conv2d returns \[B, 8, 30, 30\], and the output softmax has the shape \[B, outputs\]$",
        ),
        (
            nn.Flatten(2),
            LABELS,
            r"Flatten returns a tensor of shape \[2, 3, 1024\]: it must return one tensor, \[B, outputs\] or "
            r"\[B, classes, h, w\]. A module around it can choose one.$",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 4)), LABELS, "^pets can't be compiled: Sequential can't be traced"),
    ],
)
def test_a_network_that_cant_be_compiled_is_refused_in_a_sentence_and_leaves_no_file(
    tmp_path: Path, net: nn.Module, labels: list[str], message: str
) -> None:
    with pytest.raises(CompileError, match=message) as error:
        pellucid.compile(net, tmp_path / "pets.pellucid", labels=labels, size=SIZE, output="softmax", progress=False)
    assert "\n" not in str(error.value)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"net": nn.Linear}, "not the class Linear"),
        ({"net": {"weight": 1}}, "not a dict"),
        ({"labels": "cat"}, "not the text 'cat'"),
        ({"size": "128"}, "not '128' and 'bilinear'"),
        ({"interpolation": "cubic"}, "nearest, bilinear, bicubic"),
        ({"mean": (123, 116, 103)}, "divide them by 255"),
    ],
)
def test_invalid_arguments_are_refused_in_a_sentence(wrong: dict[str, Any], why: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"net": nn.Flatten(), "labels": ["a", "b"], "size": 8} | wrong
    with pytest.raises(CompileError, match=why):
        pellucid.compile(given.pop("net"), tmp_path / "x.pellucid", **given)
    assert not [*tmp_path.iterdir()]


def test_a_gradient_that_autograd_disputes_is_tried_by_a_difference() -> None:
    class Squares(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * x).flatten(1)

    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(1, 3, 2, 2)
    rows = torch.ones(1, 12, dtype=torch.float64)
    right, masked = 2 * x, 2 * x * (x > 0)
    for wrong in (3 * x, 2 * x.abs(), masked, 0 * x):
        assert _is_derivative(right, wrong, Squares(), x, rows)
        assert not _is_derivative(wrong, right, Squares(), x, rows)
