"""Unusual networks: in-place operations, views, detached values, masks, code for one image. All can be explained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.compiler.trace.graph import TracedNetwork, UntraceableError
from pellucid.errors import Unexplainable
from pellucid.explain.methods.gradient import grad_cam
from pellucid.types import Floats
from tests.explain.passes import Passes, evidence_at
from tests.networks import PREPROCESS, Odd, images, in_memory

SIZE = (16, 16)


class View(Odd):
    """Takes a view that does not exist in channels-last memory format."""

    def odd(self, x: Tensor) -> Tensor:
        x = x.view(x.size(0), 2, 4, 64).transpose(1, 2).contiguous().view_as(x)
        return x

    def end(self, x: Tensor) -> Tensor:
        logits: Tensor = self.flat(x.view(x.size(0), -1))
        return logits


class Squeeze(Odd):
    """Squeezes the batch axis away for a single image."""

    def odd(self, x: Tensor) -> Tensor:
        return x

    def end(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).squeeze())
        return logits


class Detached(Odd):
    def odd(self, x: Tensor) -> Tensor:
        x = self.mid(x.detach()).data * 2
        return x


class Functional(Odd):
    """Writes in place through torch.nn.functional, by keyword, and through ``out``."""

    def odd(self, x: Tensor) -> Tensor:
        x = F.leaky_relu_(self.mid(x), 0.1)
        F.relu(input=x, inplace=True)
        y = x * 2
        torch.add(y, x, out=y)
        return y


class Assigned(Odd):
    def odd(self, x: Tensor) -> Tensor:
        y = self.mid(x)
        y[:, :2] = 0
        y[:, 2:4] *= 2
        x = y + x
        return x


class Masked(Odd):
    """A mask and an index bypass the layer that is cut."""

    def odd(self, x: Tensor) -> Tensor:
        mask, strongest = x > 0, x.argmax(1, keepdim=True)
        y = self.mid(x).masked_fill(mask, 0.5)
        x = y + y.gather(1, strongest)
        return x


class Spectral(Odd):
    """Computes a spectrum, whose gradient writes to a part of a tensor."""

    def odd(self, x: Tensor) -> Tensor:
        x = self.mid(x) + torch.fft.irfft2(torch.fft.rfft2(x), s=(8, 8))
        return x


class Cached(Odd):
    """Stores an intermediate value on the module."""

    def odd(self, x: Tensor) -> Tensor:
        self.kept = self.mid(x)
        x = {"maps": [self.kept, x]}["maps"][0]
        return x


PREPROCESS_16 = replace(PREPROCESS, size=SIZE)


KINDS = [View, Squeeze, Detached, Functional, Assigned, Masked, Cached]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_odd_network_can_be_cut_at_any_layer_for_any_batch_size(kind: type[Odd]) -> None:
    net, pixels = kind().eval().double(), images(5, SIZE, torch.float64)
    found = in_memory(kind().double(), PREPROCESS_16)
    assert found.spec.default_layer, found.spec.default_layer_reason
    for count in (1, 5):
        passes = Passes(found, pixels[:count])
        with torch.no_grad():
            expected = net(pixels[:count].clone()).reshape(count, 5).numpy()
        same(passes.logits, expected)
        for layer in found.spec.by_name:
            for image in {0, count - 1}:
                head, maps = passes.behind(layer, image), passes.map(layer)[image : image + 1]
                same(head.logits(maps), expected[image : image + 1])
            heat_maps = [grad_cam(each) for each in evidence_at(found, layer, pixels[:count], [[1]] * count)]
            assert np.isfinite(heat_maps).all()


def same(one: Floats, other: Floats) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-8 * float(np.abs(other).max()))


def compare_with_captum(kind: type[Odd]) -> None:
    net, pixels = kind().eval().double(), images(1, SIZE, torch.float64)
    (evidence,) = evidence_at(in_memory(kind().double(), PREPROCESS_16), "second", pixels, [[1]])
    same(grad_cam(evidence)[0], LayerGradCam(net, net.second).attribute(pixels, target=1)[0, 0].detach().numpy())


@pytest.mark.parametrize("kind", [View, Assigned, Masked, Cached], ids=lambda kind: kind.__name__)
def test_an_odd_networks_grad_cam_equals_captums(kind: type[Odd]) -> None:
    compare_with_captum(kind)


def test_a_network_whose_gradient_cant_be_recorded_predicts_and_says_why() -> None:
    net, pixels = Spectral().eval().double(), images(2, SIZE, torch.float64)
    found = in_memory(Spectral().double(), PREPROCESS_16)
    assert "it writes to a part of a tensor" in found.manifest.limits[0]
    with torch.no_grad():
        same(Passes(found, pixels).logits, net(pixels).numpy())
    with pytest.raises(Unexplainable, match="it writes to a part of a tensor"):
        evidence_at(found, "first", pixels, [[1], [1]])


class Hooked(Odd):
    """A hook changes the classifier's logits."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier.register_forward_hook(lambda _module, _inputs, logits: logits * 2)

    def odd(self, x: Tensor) -> Tensor:
        return x


class Cosine(Odd):
    """Classifies by cosine similarity."""

    def odd(self, x: Tensor) -> Tensor:
        return x

    def end(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x.mean((2, 3))), F.normalize(self.classifier.weight))


@pytest.mark.parametrize("kind", [Hooked, Cosine])
def test_a_classifier_with_a_hook_or_normalised_weights_has_no_closed_form(kind: type[Odd]) -> None:
    found = in_memory(kind(), PREPROCESS_16)
    assert found.spec.default_layer == "second"
    assert found.manifest.values["second"].linear is None
    compare_with_captum(kind)


class Rounded(Odd):
    def odd(self, x: Tensor) -> Tensor:
        x = (self.mid(x) > 0).to(x.dtype)
        return x


def test_a_layer_that_the_logits_dont_depend_on_has_no_gradient() -> None:
    found = in_memory(Rounded().double(), PREPROCESS_16)
    assert "gt" not in found.spec.by_name  # booleans are not a map
    with pytest.raises(Unexplainable, match="the logits do not follow it"):
        evidence_at(found, "first", images(1, SIZE, torch.float64), [[1]])


class Strided(Odd):
    """Reads memory in channels-first order."""

    def odd(self, x: Tensor) -> Tensor:
        return x.as_strided(x.shape, (512, 64, 8, 1))


class ByCount(Odd):
    """Scales by half the batch size, rounded down, which is equal for two and three images."""

    def odd(self, x: Tensor) -> Tensor:
        return x * float(len(x.shape) + x.shape[0] // 2)


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Strided, "as_strided depends on the memory format"), (ByCount, "other logits from")],
)
def test_an_operation_that_a_graph_would_compute_wrongly_is_refused(kind: type[Odd], why: str) -> None:
    with pytest.raises(UntraceableError, match=why):
        TracedNetwork(kind().eval(), SIZE)


class Normalised(Odd):
    """Reads a number that depends on the pixels."""

    def odd(self, x: Tensor) -> Tensor:
        return x if x.amax().item() > 1e9 else x * 2


class Compared(Odd):
    """Tests whether all channels are equal. In noise they never are."""

    def odd(self, x: Tensor) -> Tensor:
        return x * 2 if torch.equal(x, x[:, :1]) else x


class Counted(Odd):
    """Has a branch for bright pictures. Noise never is."""

    def odd(self, x: Tensor) -> Tensor:
        bright = (x.mean((1, 2, 3)) > 10).nonzero()
        return x if bright.shape[0] == 0 else x.index_fill(0, bright[:, 0], 7.0)


class ByMask(Odd):
    def odd(self, x: Tensor) -> Tensor:
        return x * float(x[x > 1e9].shape[0] + 1)


class Sliced(Odd):
    def odd(self, x: Tensor) -> Tensor:
        return x * float(x[:, : x.argmax().clamp(max=2)].shape[1] + 1)


@pytest.mark.parametrize("kind", [Normalised, Compared, Counted, ByMask, Sliced])
def test_a_network_that_reads_numbers_of_its_input_is_refused(kind: type[Odd]) -> None:
    with pytest.raises(UntraceableError, match="a value that depends on the pixels"):
        TracedNetwork(kind().eval(), SIZE)


class Filled(Odd):
    """Fills an index in place."""

    def odd(self, x: Tensor) -> Tensor:
        order = torch.full_like(x[0, :, 0, 0], 10**6).long()
        order[:] = torch.arange(x.shape[1])
        return x[:, order]


def test_an_index_filled_in_place_is_traced() -> None:
    assert TracedNetwork(Filled().eval(), SIZE).spec.default_layer == "second"


class ByChance(Odd):
    def odd(self, x: Tensor) -> Tensor:
        return F.dropout(x)


class ByCompany(Odd):
    def odd(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (ByChance, "from the same images"),
        (ByCompany, "for an image beside other images"),
    ],
)
def test_a_network_that_depends_on_chance_or_on_other_images_is_refused(kind: type[Odd], why: str) -> None:
    refused = "can't be traced with pixels of 16x16: it computes other logits"
    with pytest.raises(UntraceableError, match=f"{kind.__name__} {refused} {why}"):
        TracedNetwork(kind().eval(), SIZE)


class Fixed(nn.Module):
    """Has no parameters."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).mean((2, 3))


def test_a_network_without_parameters_is_compiled() -> None:
    spec = in_memory(Fixed(), PREPROCESS_16).spec
    assert [layer.name for layer in spec.layers] == ["mul"]
    assert "no heat map" in spec.default_layer_reason
