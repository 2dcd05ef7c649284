"""Maps equal those of captum, pytorch-grad-cam and torch-cam, at the default layer and at earlier ones.

Gradients in float64, where no rounding moves a value across the kink of a ReLU: ours and theirs differ in batch and in
order. Methods of forward passes alone in float32: scores have no jumps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

from benchmarks.oracles import ENLARGED, ORACLES, SAMPLES, Enlarged, difference, enlarged
from models import catalog
from pellucid.compiler.graph import TracedNetwork
from pellucid.explain.evidence import Evidence, Head, gather
from pellucid.explain.methods import METHODS, Method
from pellucid.explain.methods.gradient import channel_weights, grad_cam
from pellucid.explain.methods.probe import Probe
from pellucid.network.spec import PIXELS
from pellucid.render.compose import positive
from tests.explain.cuts import evidence, exact, pictures, probe
from tests.networks import SIZE, images, network, traced

# Network -> layers: the default one, one from the middle, one from the beginning. None is followed by an in-place
# operation, which would change what the oracles' hooks recorded.
LAYERS = {
    "resnet18": ("layer4", "layer3.0", "layer1"),
    "mobilenet_v3_small": ("features", "features.7", "features.2"),
    "efficientnet_b0": ("features", "features.5", "features.2"),
}
CASES = [(name, layer) for name, layers in LAYERS.items() for layer in layers]
TARGETS = [[3], [7, 0]]
OF_EVIDENCE = [name for name, method in METHODS.items() if isinstance(method, Method)]


class Behind(nn.Module):
    """What lies behind a cut as a network of its own, the activation in place of the picture."""

    def __init__(self, of_image: Probe) -> None:
        super().__init__()
        self.input, self.of_image = nn.Identity(), of_image

    def forward(self, activation: Tensor) -> Tensor:
        others = [value.expand(len(activation), *value.shape[1:]) for value in self.of_image.crossing[1:]]
        logits: Tensor = self.of_image.head.forward(self.input(activation), *others)
        return logits


def agree(method: str, ours: Tensor, net: nn.Module, layer: str | None, picture: Tensor, target: int) -> None:
    for whose, oracle in ORACLES[method].items():
        theirs = oracle(net, layer, picture, target)
        assert np.abs(theirs).max() > 0
        assert difference(method, ours.numpy(), theirs) < 2e-4, (method, whose)


def test_every_method_has_an_oracle() -> None:
    assert set(ORACLES) == set(METHODS)


@pytest.mark.parametrize("method", OF_EVIDENCE)
@pytest.mark.parametrize(("name", "layer"), CASES)
def test_a_map_from_one_gradient_equals_the_oracles(name: str, layer: str, method: str) -> None:
    picture = pictures(1)
    (found,) = evidence(name, layer, picture, [[7, 0]])
    heat: Callable[[Evidence], Tensor] = METHODS[method].heat  # type: ignore[assignment]
    for ours, target in zip(heat(enlarged(found)), (7, 0), strict=True):
        agree(method, ours, Enlarged(exact(name)), f"net.{layer}", picture, target)


@cache
def lite0() -> tuple[nn.Module, TracedNetwork]:
    """The default network, trained, and its graph: without gates, which the oracles' hooks would see beyond a block."""
    net, spec = catalog.load("lite0-plain")
    net = net.double()
    return net, TracedNetwork(net, spec.preprocess.size)


@pytest.mark.parametrize("layer", ["head", "blocks.10", "blocks.4"])
def test_a_map_of_the_default_network_equals_the_oracles(layer: str) -> None:
    net, graph = lite0()
    picture = images(1, (224, 224), torch.float64)
    cut = graph.cut(layer)
    with torch.no_grad():
        crossing = graph.trunk(cut.inputs)(picture)
        (found,) = gather(crossing, [[285]], Head(cut.inputs, cut.head, cut.linear))
    # Their decomposition of 1280 channels takes ten seconds.
    for method in [name for name in OF_EVIDENCE if layer != "head" or "eigen" not in name]:
        heat: Callable[[Evidence], Tensor] = METHODS[method].heat  # type: ignore[assignment]
        agree(method, heat(enlarged(found))[0], Enlarged(net), f"net.{layer}", picture, 285)


@pytest.mark.parametrize(("name", "layer"), [("tiny-relu", "stem"), ("tiny-relu", "head"), ("resnet18", "layer2")])
def test_ablation_equals_the_oracles(name: str, layer: str) -> None:
    ours = METHODS["ablation-cam"].heat(probe(name, layer, dtype=torch.float32))  # type: ignore[arg-type]
    for k, target in enumerate((3, 1)):
        agree("ablation-cam", ours[k], network(name), layer, images(1), target)


@pytest.mark.parametrize(("name", "layer"), [("tiny", "stem"), ("tiny", "gate"), ("resnet18", "layer1")])
def test_score_cam_equals_the_oracles(name: str, layer: str) -> None:
    ours = METHODS["score-cam"].heat(probe(name, layer, varied=PIXELS, dtype=torch.float32))  # type: ignore[arg-type]
    for k, target in enumerate((3, 1)):
        agree("score-cam", ours[k], network(name), layer, images(1), target)


@pytest.mark.parametrize(("name", "layer"), [("tiny", "stem"), ("tiny", "block"), ("resnet18", "layer2.0")])
def test_score_cam_at_a_layer_is_the_oracles_of_what_lies_behind_it(name: str, layer: str) -> None:
    of_image = probe(name, layer, dtype=torch.float32)
    ours = METHODS["score-cam-at-layer"].heat(of_image)  # type: ignore[arg-type]
    for k, target in enumerate((3, 1)):
        agree("score-cam-at-layer", ours[k], Behind(of_image), "input", of_image.crossing[0], target)


@pytest.mark.parametrize("layer", [PIXELS, "layer2"])
def test_integrated_gradients_equal_the_oracles(layer: str) -> None:
    many_gradients_agree("integrated-gradients", "resnet18", layer, torch.float64)


@pytest.mark.parametrize(("name", "layer"), [("tiny", PIXELS), ("tiny", "stem"), ("efficientnet_b0", "features.5")])
def test_smoothgrad_equals_the_oracles(name: str, layer: str) -> None:
    """Its noise is drawn in float32, and the oracle draws another in float64: so by networks without kinks."""
    many_gradients_agree("smoothgrad", name, layer, torch.float32)


def many_gradients_agree(method: str, name: str, layer: str, dtype: torch.dtype) -> None:
    of_image = replace(probe(name, layer, dtype=dtype), samples=SAMPLES)
    ours = METHODS[method].heat(of_image)  # type: ignore[arg-type]
    net = network(name, dtype) if layer == PIXELS else Behind(of_image)
    for k, target in enumerate((3, 1)):
        agree(method, ours[k], net, None, of_image.crossing[0], target)


def enlarged_logit(target: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: ENLARGED * logits[target]


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_the_scaled_mask_equals_pytorch_grad_cams(name: str, layer: str) -> None:
    pixels = pictures(2)
    ours = evidence(name, layer, pixels, TARGETS)
    with GradCAM(exact(name), [exact(name).get_submodule(layer)]) as oracle:
        for image, (found, classes) in enumerate(zip(ours, TARGETS, strict=True)):
            heat = grad_cam(found).float().numpy()
            for k, target in enumerate(classes):
                expected = oracle(pixels[image : image + 1].clone().requires_grad_(), [enlarged_logit(target)])[0]
                np.testing.assert_allclose(positive(heat[k], *SIZE), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "resnet18", "efficientnet_b0"])
def test_the_closed_form_equals_autograd(name: str) -> None:
    net = traced(name, torch.float64)
    cut = net.cut(net.spec.default_layer)
    assert cut.linear is not None
    with torch.no_grad():
        crossing = net.trunk(cut.inputs)(pictures(2))
        closed = gather(crossing, [[1], [2, 4]], Head(cut.inputs, cut.head, cut.linear))
        backward = gather(crossing, [[1], [2, 4]], Head(cut.inputs, cut.head))
    for one, other in zip(closed, backward, strict=True):
        torch.testing.assert_close(one.gradient.expand_as(other.gradient), other.gradient, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(channel_weights(one), channel_weights(other), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(grad_cam(one), grad_cam(other), rtol=1e-9, atol=1e-12)


def test_explaining_leaves_no_gradient_on_the_shared_parameters() -> None:
    evidence("resnet18", "layer3.0", pictures(2), TARGETS)
    assert all(parameter.grad is None for parameter in exact("resnet18").parameters())


def test_an_image_that_is_explained_beside_others_gets_its_own_gradient() -> None:
    pixels = pictures(3)
    together = evidence("resnet18", "layer2", pixels, [[1], [2, 3], [4]])
    alone = evidence("resnet18", "layer2", pixels[1:2], [[2, 3]])
    torch.testing.assert_close(together[1].gradient, alone[0].gradient, rtol=1e-9, atol=1e-12)
