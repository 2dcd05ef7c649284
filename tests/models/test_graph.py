"""A traced network computes what the network computes, under names that callers know."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.graph import TracedNetwork, UntraceableError
from tests.networks import SIZE, images, network, traced

NETWORKS = ["tiny", "resnet18", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "googlenet"]
pytestmark = pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet:FutureWarning")


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_plain_network(name: str) -> None:
    net, pixels = traced(name), images(2)
    with torch.no_grad():
        (logits,) = net.trunk([net.logits])(pixels)
        torch.testing.assert_close(logits, network(name)(pixels))


@pytest.mark.parametrize("name", NETWORKS)
def test_trunk_and_head_together_are_the_network_wherever_it_is_cut(name: str) -> None:
    net, pixels = traced(name), images(2)
    layers = net.spec.layers
    with torch.no_grad():
        expected = network(name)(pixels)
        for layer in layers[:: max(1, len(layers) // 12)]:
            cut = net.cut(layer.name)
            crossing = net.trunk(cut.inputs)(pixels)
            assert tuple(crossing[0].shape[1:]) == layer.shape
            torch.testing.assert_close(cut.head(*crossing), expected, msg=layer.name)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_a_layers_value_is_what_its_module_returns(name: str) -> None:
    net, pixels = traced(name), images(1)
    modules = dict(network(name).named_modules())
    for layer in [layer for layer in net.spec.layers if layer.name in modules][::7]:
        returned: list[Tensor] = []
        # A copy: the network itself may overwrite the value in place right after.
        handle = modules[layer.name].register_forward_hook(lambda _m, _i, out, to=returned: to.append(out.clone()))
        with torch.no_grad():
            network(name)(pixels)
            (value,) = net.trunk([net.value(layer.name)])(pixels)
        handle.remove()
        # A module that runs several times (a block's one ReLU) goes by its first run; later ones have a suffix.
        torch.testing.assert_close(value, returned[0], msg=layer.name)


def test_a_tap_before_an_in_place_operation_keeps_its_own_value() -> None:
    net = traced("resnet18")
    with torch.no_grad():
        before, after = net.trunk([net.value("bn1"), net.value("relu")])(images(1))
    assert before.min() < 0 <= after.min()
    torch.testing.assert_close(before.relu(), after)


def test_the_default_layer_is_the_last_with_a_spatial_extent() -> None:
    assert traced("resnet18").spec.default_layer == "layer4"
    assert "W[k, c] / 4" in traced("resnet18").spec.default_layer_reason
    assert "W[k, c]" not in traced("mobilenet_v3_small").spec.default_layer_reason  # two linear layers follow


def test_default_feature_layers_are_an_early_a_middle_and_a_late_one() -> None:
    assert traced("resnet18").spec.feature_layers == ("relu", "layer2", "layer4")


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(KeyError):
        traced("tiny").cut("nowhere")


def test_a_network_that_branches_on_its_input_is_refused_with_the_reason() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UntraceableError, match="Branching can't be traced"):
        TracedNetwork(Branching(), SIZE)


def test_a_network_without_spatial_layers_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE[0] * SIZE[1], 4))
    with pytest.raises(UntraceableError, match="no layer with a spatial extent"):
        TracedNetwork(flat, SIZE)
