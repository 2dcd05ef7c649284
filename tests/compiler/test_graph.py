"""A traced network computes the same as the network, and its layers have the names of the modules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig

from pellucid.compiler.trace.graph import TracedNetwork, UntraceableError
from tests.explain.passes import Passes
from tests.networks import SIZE, compiled, images, in_memory, network, traced

NETWORKS = ["tiny", "resnet18", "mobilenet_v3_small", "dense"]


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_equal_the_networks(name: str) -> None:
    net, pixels = traced(name, torch.float64), images(2, dtype=torch.float64)
    with torch.no_grad():
        (logits,) = net.trunk([net.logits])(pixels)
        torch.testing.assert_close(logits, network(name, torch.float64)(pixels))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_behind_any_layer_computes_the_logits(name: str) -> None:
    net = compiled(name, torch.float64)
    passes = Passes(net, images(1, dtype=torch.float64))
    with torch.no_grad():
        expected = network(name, torch.float64)(passes.pixels)
    for layer in net.spec.layers[:: max(1, len(net.spec.layers) // 6)]:
        maps = passes.map(layer.name)
        assert maps.shape[1:] == layer.shape
        torch.testing.assert_close(torch.from_numpy(passes.behind(layer.name, 0).logits(maps)), expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_layers_value_is_what_its_module_returns(name: str) -> None:
    net, pixels = traced(name, torch.float64), images(1, dtype=torch.float64)
    modules = dict(network(name, torch.float64).named_modules())
    for layer in [layer for layer in net.spec.layers if layer.name in modules][::7]:
        returned: list[Tensor] = []
        # A copy, because the network may overwrite the value in place afterwards.
        handle = modules[layer.name].register_forward_hook(lambda _m, _i, out, to=returned: to.append(out.clone()))
        with torch.no_grad():
            network(name, torch.float64)(pixels)
            (value,) = net.trunk([net.value(layer.name)])(pixels)
        handle.remove()
        # For a module that runs several times (a block's ReLU), the name is that of the first run. Later runs have a
        # suffix.
        torch.testing.assert_close(value, returned[0], msg=layer.name)


def test_a_layer_before_an_in_place_operation_keeps_its_own_value() -> None:
    net = traced("resnet18")
    with torch.no_grad():
        before, after = net.trunk([net.value("bn1"), net.value("relu")])(images(1))
    assert before.min() < 0 <= after.min()
    torch.testing.assert_close(before.relu(), after)


def test_the_default_layer_is_the_last_with_a_spatial_extent() -> None:
    assert traced("resnet18").spec.default_layer == "layer4"
    assert "W[k, c] / 4" in traced("resnet18").spec.default_layer_reason
    assert "W[k, c]" not in traced("mobilenet_v3_small").spec.default_layer_reason  # two linear layers follow


def test_the_default_feature_layers_are_early_middle_and_late() -> None:
    assert traced("resnet18").spec.feature_layers == ("relu", "layer2", "layer4")


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ("layer2", "layer3", "layer4")),
        ("mobilenet_v3_small", ("features.3", "features.8", "features")),
        ("tiny", ("gate", "head")),
        ("tokens", ("first",)),
    ],
)
def test_the_last_stages_end_with_the_default_layer(name: str, layers: tuple[str, ...]) -> None:
    """One for each map size, however the layers of a size are nested."""
    assert traced(name).spec.last_stages == layers


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(KeyError):
        traced("tiny").value("nowhere")
    with pytest.raises(KeyError):
        compiled("tiny").value("nowhere")


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        logits: Tensor = self.classifier(-pooled if x.isnan().any() else pooled)
        return logits


def test_a_network_that_branches_on_its_pixels_is_refused() -> None:
    with pytest.raises(UntraceableError, match=r"Branching can't be traced .*: it branches on a value that depends"):
        TracedNetwork(Branching(), SIZE)


def test_a_network_without_spatial_layers_has_no_default_layer_and_says_why() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 4))
    spec = TracedNetwork(flat, SIZE).spec
    assert spec.default_layer_reason.startswith("there is no heat map")
    assert spec.default_layer == ""


def test_a_network_that_does_not_run_on_its_input_size_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    with pytest.raises(UntraceableError, match="Sequential can't be traced with pixels of 64x64"):
        TracedNetwork(flat, SIZE)


def test_a_network_that_returns_no_logits_is_refused() -> None:
    with pytest.raises(UntraceableError, match=r"^Conv2d returns \[B, 8, 62, 62\], and the output softmax"):
        TracedNetwork(nn.Conv2d(3, 8, 3), SIZE)
    with pytest.raises(
        UntraceableError, match=r"^Flatten returns a tensor of shape \[\d, 3, 4096\]: it must return one"
    ):
        TracedNetwork(nn.Flatten(2), SIZE)


def test_an_output_whose_meaning_can_not_be_found_out_must_be_declared() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 4))
    with pytest.raises(UntraceableError, match="returns 4 numbers, whose meaning can't be guessed"):
        TracedNetwork(net, SIZE, None)
    assert TracedNetwork(nn.Sequential(*net, nn.Sigmoid()), SIZE, None).kind == "sigmoid"
    assert TracedNetwork(nn.Sequential(*net, nn.Softmax(1)), SIZE, None).kind == "softmax"
    assert TracedNetwork(nn.Conv2d(3, 8, 3), SIZE, None).kind == "dense"


def test_a_network_that_reads_shapes_has_one_graph_for_any_batch_size() -> None:
    class Padding(nn.Module):
        """Pads as TensorFlow does, shuffles channels as ShuffleNet does, and tests whether its map is 1x1."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, 2)
            self.classifier = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            pad = max((-(x.shape[-1] // -2) - 1) * 2 + 3 - x.shape[-1], 0)
            x = self.conv(nn.functional.pad(x, (pad // 2, pad - pad // 2) * 2))
            batch, channels, height, width = x.size()
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, -1, height, width)
            if x.shape[-1] != 1:
                x = x.relu()
            logits: Tensor = self.classifier(x.reshape(x.shape[0] * 8, height, width).mean((1, 2)).view(batch, -1))
            return logits

    net = Padding()
    traced_net = TracedNetwork(net, SIZE)
    assert traced_net.spec.default_layer == "relu"
    found = in_memory(net)
    for count in (1, 5):
        with torch.no_grad():
            torch.testing.assert_close(traced_net.trunk([traced_net.logits])(images(count))[0], net(images(count)))
            torch.testing.assert_close(torch.from_numpy(Passes(found, images(count)).logits), net(images(count)))


def transformer(num_classes: int) -> nn.Module:
    """torchvision's vision transformer with four layers."""
    net: nn.Module = torchvision.models.VisionTransformer(64, 16, 4, 2, 32, 64, num_classes=num_classes)
    return net


def swin(num_classes: int) -> nn.Module:
    """torchvision's Swin transformer with two stages of few channels."""
    net: nn.Module = torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [7, 7], num_classes=num_classes)
    return net


def convnext(num_classes: int) -> nn.Module:
    """torchvision's ConvNeXt with two stages of few channels."""
    stages = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)]
    net: nn.Module = torchvision.models.ConvNeXt(stages, num_classes=num_classes)
    return net


@pytest.mark.parametrize("make", [convnext, swin, transformer])
def test_tokens_and_channels_last_maps_are_read_as_maps(make: Callable[[int], nn.Module]) -> None:
    """A layer's map is its module's value, moved to [B, C, h, w]. The head behind it computes the logits."""
    torch.manual_seed(0)
    net = make(5).eval()
    found = in_memory(net)
    passes = Passes(found, images(1))
    modules = dict(net.named_modules())
    layers = [layer for layer in found.spec.layers if type(modules.get(layer.name)) is nn.LayerNorm]
    for layer in layers[:: len(layers) // 3]:
        returned: list[Tensor] = []
        handle = modules[layer.name].register_forward_hook(lambda _m, _i, out, to=returned: to.append(out))
        with torch.no_grad():
            logits = net(passes.pixels)
        handle.remove()
        value = torch.from_numpy(passes.map(layer.name))
        assert tuple(value.shape[1:]) == layer.shape
        behind = torch.from_numpy(passes.behind(layer.name, 0).logits(value.numpy()))
        torch.testing.assert_close(behind, logits, rtol=1e-4, atol=1e-4)
        positions = value.flatten(2).transpose(1, 2)  # B hw C
        returned_positions = returned[0].flatten(1, -2)[:, -positions.shape[1] :]
        torch.testing.assert_close(positions, returned_positions, rtol=1e-4, atol=1e-4)


def test_a_vision_transformers_default_layer_is_the_last_whose_positions_are_read() -> None:
    """After the last attention only the class token is read, so a map there would be zero."""
    net = TracedNetwork(transformer(num_classes=5), SIZE)
    assert net.spec.default_layer == "encoder.layers.encoder_layer_2"
    assert net.spec.by_name[net.spec.default_layer].shape == (32, 4, 4)


class Overwriting(nn.Module, ABC):
    """Overwrites a value in place, as the subclass does it, and ignores the returned result."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(8, 5)

    @abstractmethod
    def overwrite(self, x: Tensor) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        self.overwrite(x)
        logits: Tensor = self.classifier((self.second(x) + x).mean((2, 3)))
        return logits


class ByModule(Overwriting):
    def overwrite(self, x: Tensor) -> None:
        self.relu(x)


class ByMethod(Overwriting):
    def overwrite(self, x: Tensor) -> None:
        x.relu_()


class ByFunction(Overwriting):
    def overwrite(self, x: Tensor) -> None:
        nn.functional.relu(x, inplace=True)


class ByTorch(Overwriting):
    def overwrite(self, x: Tensor) -> None:
        torch.clamp_(x, 0, 1)


class ThroughView(Overwriting):
    def overwrite(self, x: Tensor) -> None:
        x.chunk(2, 1)[0].mul_(3)


class ThroughName(Overwriting):
    def overwrite(self, x: Tensor) -> None:
        x += 1.5


@pytest.mark.parametrize("kind", [ByModule, ByMethod, ByFunction, ByTorch], ids=lambda kind: kind.__name__)
def test_a_value_overwritten_in_place_is_read_as_in_the_network(kind: type[Overwriting]) -> None:
    net, pixels = kind().eval(), images(2)
    with torch.no_grad():
        expected = net(pixels)
        served = TracedNetwork(net, SIZE)
        (logits,) = served.trunk([served.logits])(pixels)
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(net(pixels), expected)  # the network itself is unchanged


@pytest.mark.parametrize("kind", [ThroughView, ThroughName])
def test_a_network_whose_trace_computes_other_logits_is_refused(kind: type[Overwriting]) -> None:
    with pytest.raises(UntraceableError, match=f"{kind.__name__} can't be traced .*: it computes other logits"):
        TracedNetwork(kind().eval(), SIZE)
