"""Inserting gates into networks by layer name, finding them in a trace, and loading their weights."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from models.attention import ChannelAttention
from models.insert import InsertionError, gate_state, gates_of, load_gates, with_gates
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.compiler.weights import WeightsError

SIZE = (32, 32)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    stage = nn.Sequential(OrderedDict(conv=nn.Conv2d(8, 12, 3, stride=2), act=nn.ReLU()))
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
            stage=stage,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(1),
            classifier=nn.Linear(12, 5),
        )
    ).eval()


def train_at_random(net: nn.Module) -> None:
    torch.manual_seed(1)
    for _, layer in gates_of(net):
        for parameter in layer.gate.parameters():
            nn.init.normal_(parameter, std=0.3)


def pixels() -> Tensor:
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def test_untrained_gates_do_not_change_the_logits() -> None:
    net = small_network()
    gated = with_gates(net, {"stem": "channel", "stage": "channel"}, SIZE)
    assert torch.equal(gated(pixels()), net(pixels()))
    assert torch.equal(gated.to(torch.bfloat16)(pixels().bfloat16()), net.to(torch.bfloat16)(pixels().bfloat16()))


def test_the_given_network_is_unchanged() -> None:
    net = small_network().train()
    before = dict(net.state_dict())
    with_gates(net, {"stem": "channel"}, SIZE)
    assert net.training
    assert net.state_dict().keys() == before.keys()
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert net.get_submodule("stem.2").inplace


def test_layers_keep_their_names_and_the_gate_has_its_own() -> None:
    net = small_network()
    gated = with_gates(net, {"stem": "channel", "stage.conv": "channel"}, SIZE)
    train_at_random(gated)
    plain, traced = TracedNetwork(net, SIZE), TracedNetwork(gated, SIZE)
    added = {"stem.gate", "stem.gate.mul_1", "stage.conv.gate", "stage.conv.gate.mul_1"}
    assert traced.spec.by_name.keys() - plain.spec.by_name.keys() == added
    assert {name: traced.spec.by_name[name] for name in plain.spec.by_name} == plain.spec.by_name

    before, after, stage = traced.trunk([traced.value(name) for name in ("stem", "stem.gate", "stage.conv")])(pixels())
    layer = dict(gates_of(gated))["stem"]
    assert torch.equal(before, layer.layer(pixels()))
    assert torch.equal(after, layer.gate(before))
    assert torch.equal(stage, gated.get_submodule("stage.conv.layer")(after))


def test_a_gates_weights_are_the_factors_of_the_channels() -> None:
    gated = with_gates(small_network(), {"stage": "channel"}, SIZE)
    train_at_random(gated)
    traced = TracedNetwork(gated, SIZE)
    (spec,) = traced.spec.gates
    assert (spec.layer, spec.type, spec.shape[0]) == ("stage.gate", "ChannelAttention", 12)

    names = [traced.value("stage"), traced.gates[spec.layer], traced.value("stage.gate")]
    x, reading, y = traced.trunk(names)(pixels())
    gate = dict(gates_of(gated))["stage"].gate
    assert isinstance(gate, ChannelAttention)

    def mlp(pooled: Tensor) -> Tensor:
        return (gate.excite.weight @ torch.relu(gate.squeeze.weight @ pooled.T + gate.squeeze.bias[:, None])).T

    by_hand = 2 / (1 + torch.exp(-(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))) + 2 * gate.excite.bias)))
    assert torch.allclose(reading.flatten(1), by_hand, atol=1e-6)
    assert torch.equal(y, x * reading)
    assert reading.flatten(1).std(0).min() > 0  # the weights depend on the picture


def test_nested_layers_can_both_have_a_gate() -> None:
    torch.manual_seed(0)
    net = resnet18(num_classes=5).eval()
    gated = with_gates(net, {"layer3": "channel", "layer3.0": "channel"}, SIZE)
    assert torch.equal(gated(pixels()), net(pixels()))
    names = [*TracedNetwork(gated, SIZE).gates]
    assert names == ["layer3.0.gate", "layer3.gate"]
    assert {"layer3.0.conv1", "layer3.1.conv1"} <= TracedNetwork(gated, SIZE).spec.by_name.keys()


def test_gates_have_the_dtype_of_the_network() -> None:
    gated = with_gates(small_network().double(), {"stem": "channel"}, SIZE)
    assert {value.dtype for value in gate_state(gated).values()} == {torch.float64}


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        ({"stage": "spatial"}, "unknown gate type 'spatial'; known: channel"),
        ({"layer9": "channel"}, "no layer 'layer9'.*stem, stage"),
        ({"classifier": "channel"}, "no layer 'classifier'"),
    ],
)
def test_a_layer_that_cant_have_a_gate_is_refused_by_name(gates: dict[str, str], message: str) -> None:
    with pytest.raises(InsertionError, match=message):
        with_gates(small_network(), gates, SIZE)


def test_a_second_gate_at_a_layer_is_refused() -> None:
    gated = with_gates(small_network(), {"stem": "channel"}, SIZE)
    with pytest.raises(InsertionError, match="'stem' already has a gate"):
        with_gates(gated, {"stem": "channel"}, SIZE)


class Reused(nn.Module):
    """One ReLU that runs after two convolutions of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 1, 1)
        self.relu, self.classifier = nn.ReLU(), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.relu(self.second(self.relu(self.first(x)))).mean((2, 3)))
        return logits


def test_a_layer_that_runs_several_times_is_refused() -> None:
    with pytest.raises(InsertionError, match="'relu' runs 2 times"):
        with_gates(Reused(), {"relu": "channel"}, SIZE)
    with_gates(Reused(), {"second": "channel"}, SIZE)


def test_gate_weights_load_strictly() -> None:
    trained = with_gates(small_network(), {"stem": "channel"}, SIZE)
    train_at_random(trained)
    state = gate_state(trained)
    assert sorted(state) == [
        f"stem.gate.{name}" for name in ("excite.bias", "excite.weight", "squeeze.bias", "squeeze.weight")
    ]

    fresh = with_gates(small_network(), {"stem": "channel"}, SIZE)
    load_gates(fresh, state, "the test")
    assert torch.equal(fresh(pixels()), trained(pixels()))
    for wrong in (dict(list(state.items())[1:]), state | {"classifier.bias": torch.zeros(5)}):
        with pytest.raises(WeightsError, match="they differ in"):
            load_gates(fresh, wrong, "the test")
    with pytest.raises(WeightsError, match=r"excite\.bias"):
        load_gates(fresh, state | {"stem.gate.excite.bias": torch.zeros(3)}, "the test")
