"""Grad-CAM equals captum's and pytorch-grad-cam's, at the default layer and at earlier ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from torch import Tensor

from service.explain.evidence import Evidence, Head, gather
from service.explain.methods.gradient import channel_weights, grad_cam
from service.render.compose import positive
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


def evidence(name: str, layer: str, pixels: Tensor, targets: list[list[int]]) -> list[Evidence]:
    net = traced(name)
    cut = net.cut(layer)
    with torch.no_grad():
        crossing = net.trunk(cut.inputs)(pixels)
        return gather(crossing, targets, Head(cut.inputs, cut.head, cut.linear))


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_the_raw_map_equals_captums(name: str, layer: str) -> None:
    pixels = images(2)
    oracle = LayerGradCam(network(name), network(name).get_submodule(layer))
    for image, (found, classes) in enumerate(zip(evidence(name, layer, pixels, TARGETS), TARGETS, strict=True)):
        heat = grad_cam(found)
        for k, target in enumerate(classes):
            expected = oracle.attribute(pixels[image : image + 1], target=target)[0, 0].detach()
            assert expected.abs().max() > 0
            torch.testing.assert_close(heat[k], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def enlarged(target: int) -> Callable[[Tensor], Tensor]:
    """The logit times 1e5: the oracle adds 1e-7 to a map's range, which is as large as a random network's maps."""
    return lambda logits: 1e5 * logits[target]


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_the_scaled_mask_equals_pytorch_grad_cams(name: str, layer: str) -> None:
    pixels = images(2)
    ours = evidence(name, layer, pixels, TARGETS)
    with GradCAM(network(name), [network(name).get_submodule(layer)]) as oracle:
        for image, (found, classes) in enumerate(zip(ours, TARGETS, strict=True)):
            heat = grad_cam(found).numpy()
            for k, target in enumerate(classes):
                expected = oracle(pixels[image : image + 1].clone().requires_grad_(), [enlarged(target)])[0]
                np.testing.assert_allclose(positive(heat[k], *SIZE), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "resnet18", "efficientnet_b0"])
def test_the_closed_form_equals_autograd(name: str) -> None:
    net = traced(name)
    cut = net.cut(net.spec.default_layer)
    assert cut.linear is not None
    with torch.no_grad():
        crossing = net.trunk(cut.inputs)(images(2))
        closed = gather(crossing, [[1], [2, 4]], Head(cut.inputs, cut.head, cut.linear))
        backward = gather(crossing, [[1], [2, 4]], Head(cut.inputs, cut.head))
    for one, other in zip(closed, backward, strict=True):
        torch.testing.assert_close(one.gradient.expand_as(other.gradient), other.gradient, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(channel_weights(one), channel_weights(other), rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(grad_cam(one), grad_cam(other), rtol=1e-4, atol=1e-6)


def test_explaining_leaves_no_gradient_on_the_shared_parameters() -> None:
    evidence("resnet18", "layer3.0", images(2), TARGETS)
    assert all(parameter.grad is None for parameter in network("resnet18").parameters())


def test_an_image_that_is_explained_beside_others_gets_its_own_gradient() -> None:
    pixels = images(3)
    together = evidence("resnet18", "layer2", pixels, [[1], [2, 3], [4]])
    alone = evidence("resnet18", "layer2", pixels[1:2], [[2, 3]])
    torch.testing.assert_close(together[1].gradient, alone[0].gradient, rtol=1e-3, atol=1e-7)
