"""Gates are found by what they compute. Their weights are the numbers that multiply the channels."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

from pellucid.compiler.trace.graph import TracedNetwork
from tests.networks import SIZE, images, network, traced, trained_gate


def readings(net: TracedNetwork, pixels: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [weights.flatten(1) for weights in net.trunk([*net.gates.values()])(pixels)]


def recorded_ratios(net: nn.Module, layers: list[str], pixels: Tensor) -> list[Tensor]:
    """output / input of each gating module, per channel, where the input is not zero: the gate by definition."""
    ratios: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        ratio = (output / inputs[0]).flatten(2)  # B C hw
        ratios.append(ratio.nanmean(2))

    handles = [net.get_submodule(layer).register_forward_hook(record) for layer in layers]
    with torch.no_grad():
        net(pixels)
    for handle in handles:
        handle.remove()
    return ratios


def test_channel_attention_is_twice_the_sigmoid_of_a_shared_mlp_over_both_poolings() -> None:
    torch.manual_seed(0)
    gate = trained_gate(6)
    x = torch.randn(2, 6, 5, 5)
    hidden = [torch.relu(p @ gate.squeeze.weight.T + gate.squeeze.bias) for p in (x.mean((2, 3)), x.amax((2, 3)))]
    pre = sum((h @ gate.excite.weight.T + gate.excite.bias for h in hidden), torch.zeros(2, 6))
    torch.testing.assert_close(gate(x), x * 2 * torch.sigmoid(pre)[:, :, None, None])


@pytest.mark.parametrize(
    ("name", "count", "kind", "squash"),
    [
        ("tiny", 1, "ChannelAttention", "sigmoid"),
        ("mobilenet_v3_small", 9, "SqueezeExcitation", "hardsigmoid"),
        ("efficientnet_b0", 16, "SqueezeExcitation", "sigmoid"),
    ],
)
def test_gate_weights_equal_output_over_input(name: str, count: int, kind: str, squash: str) -> None:
    net, pixels = traced(name, torch.float64), images(2, dtype=torch.float64)
    specs = net.spec.gates
    assert [(spec.type, spec.squash) for spec in specs] == [(kind, squash)] * count
    by_hand = recorded_ratios(network(name, torch.float64), [spec.layer for spec in specs], pixels)
    for spec, read, expected in zip(specs, readings(net, pixels), by_hand, strict=True):
        assert read.shape == (2, spec.shape[0])
        dead = expected.isnan()  # a channel that is zero everywhere has no ratio
        torch.testing.assert_close(read[~dead], expected[~dead], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("seresnet18", "SEModule"), ("ecaresnet26t", "EcaModule"), ("ese_vovnet19b_dw", "EffectiveSEModule")],
)
def test_timms_gates_are_found(name: str, kind: str) -> None:
    if name == "seresnet18":
        net = timm.create_model("resnet18", pretrained=False, num_classes=4, block_args={"attn_layer": "se"})
    else:
        net = timm.create_model(name, pretrained=False, num_classes=4)
    traced_net = TracedNetwork(net, SIZE)
    kinds = {spec.type for spec in traced_net.spec.gates}
    assert kinds == {kind}
    for read in readings(traced_net, images(1)):
        assert ((read >= 0) & (read <= 1)).all()


@pytest.mark.parametrize("kind", ["cbam", "lcbam"])
def test_cbams_gates_of_channels_and_of_positions_are_told_apart(kind: str) -> None:
    net = timm.create_model("resnet18", pretrained=False, num_classes=4, block_args={"attn_layer": kind}).eval()
    traced_net = TracedNetwork(net, SIZE)
    light = "Light" * (kind == "lcbam")
    assert {spec.type for spec in traced_net.spec.gates} == {f"{light}ChannelAttn"}
    spatial = traced_net.spec.spatial_gates
    assert {(spec.type, spec.squash) for spec in spatial} == {(f"{light}SpatialAttn", "sigmoid")}
    assert [spec.layer for spec in spatial] == [
        f"layer{n}.{block}.se.spatial" for n in (1, 2, 3, 4) for block in (0, 1)
    ]
    for spec in spatial:
        sides = [traced_net.value(side) for side in (spec.before, spec.after)]
        with torch.no_grad():
            before, after, weights = traced_net.trunk([*sides, traced_net.spatial_gates[spec.layer]])(images(2))
        torch.testing.assert_close(after, before * weights.reshape(2, 1, *spec.shape[1:]))


class BothGates(nn.Module):
    """A gate of channels and one of positions, written out in one module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * self.first(x.mean((2, 3))).sigmoid()[:, :, None, None]
        gated: Tensor = x * self.second(x).sigmoid()
        return gated


def test_a_gate_of_positions_does_not_rename_the_channel_gate_beside_it() -> None:
    spec = TracedNetwork(classifier(BothGates()), SIZE).spec
    assert [(gate.layer, gate.after) for gate in spec.gates] == [("1", "1.mul")]
    assert [(gate.layer, gate.before, gate.after) for gate in spec.spatial_gates] == [("1.mul_1", "1.mul", "1.mul_1")]


@pytest.mark.parametrize("name", ["resnet18", "dense"])
def test_networks_without_gates_have_none(name: str) -> None:
    assert traced(name).spec.gates == ()


class Squeeze(nn.Module):
    """A squeeze-and-excitation gate of 8 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.mlp(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return gated


class TwoGates(nn.Module):
    """Two gates in one module, written out, and a third behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(8, 8), nn.Linear(8, 8)
        self.gate = Squeeze()

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.first(x.mean((2, 3))).sigmoid()[:, :, None, None]
        y = self.conv(y)
        y = y * self.second(y.mean((2, 3))).sigmoid()[:, :, None, None]
        gated: Tensor = self.conv(self.gate(y))
        return gated


def classifier(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    behind = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *layers, *behind).eval()


def test_every_gate_has_a_unique_name() -> None:
    """A gate has its module's name. If the module has several gates, each has its multiplication's name."""
    squeeze, block = Squeeze(), TwoGates()
    net = classifier(block, squeeze, nn.ReLU(), squeeze)
    traced_net = TracedNetwork(net, SIZE)
    named = {spec.layer: (spec.type, spec.before, spec.after) for spec in traced_net.spec.gates}
    assert named == {
        "1.mul": ("TwoGates", "0", "1.mul"),
        "1.mul_1": ("TwoGates", "1.conv", "1.mul_1"),
        "1.gate": ("Squeeze", "1.mul_1", "1.gate"),
        "2.mul": ("Squeeze", "1", "2.mul"),  # one module that runs twice
        "2.mul_1": ("Squeeze", "3", "2.mul_1"),
    }
    read = dict(zip(named, readings(traced_net, images(1)), strict=True))
    with torch.no_grad():
        first, second = net[0](images(1)), net[:2](images(1))  # what 1.mul and 2.mul scale
        torch.testing.assert_close(read["1.mul"], block.first(first.mean((2, 3))).sigmoid())
        torch.testing.assert_close(read["2.mul"], squeeze.mlp(second.mean((2, 3))).sigmoid())


def test_a_modules_name_belongs_to_the_value_of_its_first_run_alone() -> None:
    class Relu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.relu(torch.relu(x)))
            return x

    kinds = {layer.name: layer.kind for layer in TracedNetwork(classifier(Relu()), SIZE).spec.layers}
    assert kinds == {
        **{"0": "Conv2d", "1.relu_1": "relu", "1.relu.0": "Conv2d", "1.relu.1": "ReLU", "1.relu": "Sequential"},
        **{"1.relu.0_1": "Conv2d", "1.relu.1_1": "ReLU", "1.relu_2": "Sequential", "1": "Relu"},
    }
