"""Maps equal those of captum, pytorch-grad-cam and torch-cam, at the default layer and at earlier layers.

Methods with gradients are compared in float64. There, the different batches and orders of summation move no value
across the kink of a ReLU. Methods with forward passes only are compared in float32, because scores are continuous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from pytorch_grad_cam import GradCAM
from torch import Tensor, nn

from benchmarks.oracles import ENLARGED, ORACLES, SAMPLES, Enlarged, difference, enlarged
from models import catalog
from pellucid.compiler.compiling import compile_network
from pellucid.explain.evidence import Evidence
from pellucid.explain.methods import METHODS, Method, ProbingMethod
from pellucid.explain.methods.gradient import channel_weights, grad_cam
from pellucid.explain.probe import Probe
from pellucid.explain.scalars import scalars
from pellucid.network.file import CompiledNetwork
from pellucid.network.spec import PIXELS, SOFTMAX
from pellucid.render.compose import positive
from pellucid.types import Floats, Plan
from tests.explain.passes import Passes, TorchBehind, evidence, evidence_at, exact, pictures, probe
from tests.networks import SIZE, compiled, images, network

# Network -> its default layer, a middle layer, and an early layer. No in-place operation follows any of them: it would
# change the values that the oracles' hooks recorded.
LAYERS = {
    "resnet18": ("layer4", "layer3.0", "layer1"),
    "mobilenet_v3_small": ("features", "features.7", "features.2"),
    "efficientnet_b0": ("features", "features.5", "features.2"),
}
CASES = [(name, layer) for name, layers in LAYERS.items() for layer in layers]
TARGETS = [[3], [7, 0]]
OF_EVIDENCE = {name: method for name, method in METHODS.items() if isinstance(method, Method)}
PROBING = {name: method for name, method in METHODS.items() if isinstance(method, ProbingMethod)}


class Behind(nn.Module):
    """The network behind a layer as an nn.Module, which takes the activation in place of the picture."""

    def __init__(self, of_image: Probe) -> None:
        super().__init__()
        self.input, self.of_image = nn.Identity(), of_image

    def forward(self, activation: Tensor) -> Tensor:
        assert isinstance(self.of_image.behind, TorchBehind)
        return self.of_image.behind.run(self.input(activation))


def varied(of_image: Probe) -> Tensor:
    return torch.from_numpy(of_image.varied[None])


def agree(method: str, ours: Floats, net: nn.Module, layer: str | None, picture: Tensor, target: int) -> None:
    for whose, oracle in ORACLES[method].items():
        theirs = oracle(net, layer, picture, target)
        assert np.abs(theirs).max() > 0
        assert difference(method, ours, theirs) < 2e-4, (method, whose)


def test_every_method_has_an_oracle() -> None:
    assert set(ORACLES) == set(METHODS)


@pytest.mark.parametrize("method", OF_EVIDENCE)
@pytest.mark.parametrize(("name", "layer"), CASES)
def test_a_map_from_one_gradient_equals_the_oracles(name: str, layer: str, method: str) -> None:
    picture = pictures(1)
    (found,) = evidence(name, layer, picture, [[7, 0]])
    for ours, target in zip(OF_EVIDENCE[method].heat(enlarged(found)), (7, 0), strict=True):
        agree(method, ours, Enlarged(exact(name)), f"net.{layer}", picture, target)


@cache
def lite0() -> tuple[nn.Module, CompiledNetwork]:
    """The trained default network and its compiled form. No gates: they would change what hooks on blocks record."""
    net, spec = catalog.load("lite0-plain")
    net = net.double()
    return net, compile_network(net, spec, None)


@pytest.mark.parametrize("layer", ["head", "blocks.10", "blocks.4"])
def test_a_map_of_the_default_network_equals_the_oracles(layer: str) -> None:
    net, network = lite0()
    picture = images(1, (224, 224), torch.float64)
    (found,) = evidence_at(network, layer, picture, [[285]])
    # The oracles' decomposition of 1280 channels would take ten seconds.
    for method in [name for name in OF_EVIDENCE if layer != "head" or "eigen" not in name]:
        agree(method, OF_EVIDENCE[method].heat(enlarged(found))[0], Enlarged(net), f"net.{layer}", picture, 285)


@pytest.mark.parametrize(("name", "layer"), [("tiny-relu", "stem"), ("tiny-relu", "head"), ("resnet18", "layer2")])
def test_ablation_equals_the_oracles(name: str, layer: str) -> None:
    ours = PROBING["ablation-cam"].heat(probe(name, layer, dtype=torch.float32))
    for k, target in enumerate((3, 1)):
        agree("ablation-cam", ours[k], network(name), layer, images(1), target)


@pytest.mark.parametrize(("name", "layer"), [("tiny", "stem"), ("tiny", "gate"), ("resnet18", "layer1")])
def test_score_cam_equals_the_oracles(name: str, layer: str) -> None:
    ours = PROBING["score-cam"].heat(probe(name, layer, varied=PIXELS, dtype=torch.float32))
    for k, target in enumerate((3, 1)):
        agree("score-cam", ours[k], network(name), layer, images(1), target)


@pytest.mark.parametrize(("name", "layer"), [("tiny", "stem"), ("tiny", "block"), ("resnet18", "layer2.0")])
def test_score_cam_at_a_layer_equals_the_oracle_on_the_network_behind_it(name: str, layer: str) -> None:
    of_image = probe(name, layer, dtype=torch.float32)
    ours = PROBING["score-cam-at-layer"].heat(of_image)
    for k, target in enumerate((3, 1)):
        agree("score-cam-at-layer", ours[k], Behind(of_image), "input", varied(of_image), target)


@pytest.mark.parametrize("layer", [PIXELS, "layer2"])
def test_integrated_gradients_equal_the_oracles(layer: str) -> None:
    many_gradients_agree("integrated-gradients", "resnet18", layer)


@pytest.mark.parametrize(("name", "layer"), [("tiny", PIXELS), ("tiny", "stem"), ("efficientnet_b0", "features.5")])
def test_smoothgrad_equals_the_oracles(name: str, layer: str) -> None:
    many_gradients_agree("smoothgrad", name, layer)


def many_gradients_agree(method: str, name: str, layer: str) -> None:
    of_image = replace(probe(name, layer), samples=SAMPLES)
    ours = PROBING[method].heat(of_image)
    net = exact(name) if layer == PIXELS else Behind(of_image)
    for k, target in enumerate((3, 1)):
        agree(method, ours[k], net, None, varied(of_image), target)


def enlarged_logit(target: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: ENLARGED * logits[target]


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_the_scaled_mask_equals_pytorch_grad_cams(name: str, layer: str) -> None:
    pixels = pictures(2)
    ours = evidence(name, layer, pixels, TARGETS)
    with GradCAM(exact(name), [exact(name).get_submodule(layer)]) as oracle:
        for image, (found, classes) in enumerate(zip(ours, TARGETS, strict=True)):
            heat = grad_cam(found)
            for k, target in enumerate(classes):
                expected = oracle(pixels[image : image + 1].clone().requires_grad_(), [enlarged_logit(target)])[0]
                np.testing.assert_allclose(positive(heat[k], *SIZE), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "resnet18", "efficientnet_b0"])
def test_the_closed_form_equals_autograd(name: str) -> None:
    net = compiled(name, torch.float64)
    layer, targets = net.spec.default_layer, [[1], [2, 4]]
    passes = Passes(net, pictures(2))
    for i, closed in enumerate(evidence_at(net, layer, pictures(2), targets)):
        assert closed.gradient.shape[2:] == (1, 1)
        head, activation = passes.behind(layer, i), passes.map(layer)[i]
        gradient = head.gradients(
            activation[None], scalars(Plan(targets=tuple(targets[i])), SOFTMAX, passes.logits.shape[1])
        )[:, 0]
        backward = Evidence(activation, gradient)
        exactly = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
        exactly(np.broadcast_to(closed.gradient, gradient.shape), gradient)
        exactly(channel_weights(closed), channel_weights(backward))
        exactly(grad_cam(closed), grad_cam(backward))
