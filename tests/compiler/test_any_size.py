"""A network at other sizes: its graph has the logits, values and gradients of the module, or a limit says why not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.network.file import ONE_SIZE_ONLY
from pellucid.network.graph import PIXELS_INPUT, WANTED_INPUT
from pellucid.runtime import torch_runtime
from tests.networks import PREPROCESS, images, in_memory, network, of_any_size

SIZES = [(96, 64), (160, 96), (32, 128), (64, 64)]


class Padded(nn.Module):
    """TensorFlow's padding, which reads the sides, and a max pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.classifier = nn.Conv2d(3, 6, 3, 2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        pads = [max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in x.shape[2:]]
        x = nn.functional.pad(x, (pads[1] // 2, pads[1] - pads[1] // 2, pads[0] // 2, pads[0] - pads[0] // 2))
        x = nn.functional.max_pool2d(nn.functional.silu(self.first(x)), 3, 2, 1)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


class Flat(nn.Module):
    """A linear layer of all positions."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.classifier = nn.Conv2d(3, 4, 8, 8), nn.Linear(4 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.first(x).flatten(1))
        return logits


class Branches(nn.Module):
    """Another operation for wide pictures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.classifier = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.shape[3] > x.shape[2]:
            x = x.tanh()
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


class Refuses(Branches):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 96 or x.shape[3] != 96:
            raise AssertionError("pixels must be 96 x 96")
        return super().forward(x)


def outputs_at(net: nn.Module, size: tuple[int, int], layers: list[str]) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """The logits, and the values and gradients of ``layers`` for class 1, by torch's autograd."""
    traced = TracedNetwork(net, size)
    values = [traced.value(layer) for layer in layers]
    with torch.enable_grad():
        pixels = images(2, size, torch.float64).requires_grad_()
        *found, logits = traced.trunk((*values, traced.logits))(pixels)
        gradients = torch.autograd.grad(logits[:, 1].sum(), [*found, pixels], allow_unused=True)
    return [*found, pixels], logits, [g if g is not None else torch.zeros(1) for g in gradients]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["tiny", "tiny-relu", "paths", "padded"])
def test_every_layer_and_gradient_is_that_of_the_module_at_this_size(name: str, size: tuple[int, int]) -> None:
    net = Padded().double().eval() if name == "padded" else network(name, torch.float64)
    found = in_memory(net, any_size=True) if name == "padded" else of_any_size(name, torch.float64)
    assert found.sizes.multiple == 32, found.manifest.limits
    at = found.at(size)
    layers = [layer.name for layer in at.spec.layers]
    values, logits, gradients = outputs_at(net, size, layers)
    entries = [*(at.manifest.values[layer] for layer in layers), at.manifest.pixels]
    kept = [entry for entry in entries if entry.gradient is not None]
    names = [entry.node for entry in entries], [entry.gradient or "" for entry in kept]
    part = at.graph.part((PIXELS_INPUT, WANTED_INPUT), [at.manifest.logits, *names[0], *names[1]])
    wanted = torch.zeros(2, len(at.model.labels), dtype=torch.float64)
    wanted[:, 1] = 1
    with torch.no_grad():
        computed = torch_runtime.build(part, at.weights, torch.device("cpu"), None)(values[-1].detach(), wanted)
    expected = [logits, *values, *(g for g, entry in zip(gradients, entries, strict=True) if entry in kept)]
    for number, (one, other) in enumerate(zip(computed, expected, strict=True)):
        torch.testing.assert_close(
            one, other.detach().reshape(one.shape), rtol=1e-9, atol=1e-12, msg=f"output {number}"
        )
    for layer, value in zip(at.spec.layers, values[:-1], strict=True):
        layout = at.manifest.values[layer.name].layout
        assert layout.to_map(value.detach().numpy()).shape[1:] == layer.shape


def test_gates_have_the_extent_of_their_maps() -> None:
    at = of_any_size("tiny").at((96, 160))
    assert [gate.shape for gate in at.spec.gates] == [(8, 48, 80)]
    assert at.model.preprocess.size == (96, 160)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Flat, "can't be traced"),
        (Branches, "it has other layers at another size"),
        (Refuses, "pixels must be 96 x 96"),
    ],
)
def test_a_network_of_one_size_says_why(kind: type[nn.Module], why: str) -> None:
    side = 96 if kind is Refuses else 64
    found = in_memory(kind(), replace(PREPROCESS, size=(side, side), resize=side), any_size=True)
    assert found.sizes.multiple is None
    assert why in found.sizes.why
    assert any(limit.startswith(ONE_SIZE_ONLY) and why in limit for limit in found.manifest.limits)
    with pytest.raises(ValueError, match="can't run on pixels of 96x128"):
        found.at((96, 128))


@pytest.mark.parametrize("size", [(0, 64), (-32, 64), (60, 64), (64, 8224)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="can't run on pixels of"):
        of_any_size("tiny").at(size)
