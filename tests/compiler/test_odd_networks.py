"""Networks as people write them: in place, by views, detached, masked, for one image. All are explained as they run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.compiler.graph import TracedNetwork, UntraceableError
from pellucid.errors import Unexplainable
from pellucid.explain.methods.gradient import grad_cam
from pellucid.types import Floats
from tests.explain.passes import Passes, evidence_at
from tests.networks import PREPROCESS, Odd, images, in_memory

SIZE = (16, 16)


class View(Odd):
    """Asks for a view that a map with channels last in memory doesn't have."""

    def odd(self, x: Tensor) -> Tensor:
        x = x.view(x.size(0), 2, 4, 64).transpose(1, 2).contiguous().view_as(x)
        return x

    def end(self, x: Tensor) -> Tensor:
        logits: Tensor = self.flat(x.view(x.size(0), -1))
        return logits


class Squeeze(Odd):
    """Squeezes the batch away, of one image."""

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
    """In place by functions without a twin in torch, by keyword, and by ``out``."""

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
    """A mask and an index pass a cut by."""

    def odd(self, x: Tensor) -> Tensor:
        mask, strongest = x > 0, x.argmax(1, keepdim=True)
        y = self.mid(x).masked_fill(mask, 0.5)
        x = y + y.gather(1, strongest)
        return x


class Spectral(Odd):
    """Goes through a spectrum, whose gradient writes into a part of a tensor."""

    def odd(self, x: Tensor) -> Tensor:
        x = self.mid(x) + torch.fft.irfft2(torch.fft.rfft2(x), s=(8, 8))
        return x


class Cached(Odd):
    """Keeps what it computed, as many do to look at it."""

    def odd(self, x: Tensor) -> Tensor:
        self.kept = self.mid(x)
        x = {"maps": [self.kept, x]}["maps"][0]
        return x


PREPROCESS_16 = replace(PREPROCESS, size=SIZE)


KINDS = [View, Squeeze, Detached, Functional, Assigned, Masked, Cached]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_odd_network_is_cut_anywhere_and_computes_the_same_for_any_number_of_images(kind: type[Odd]) -> None:
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
            heats = [grad_cam(each) for each in evidence_at(found, layer, pixels[:count], [[1]] * count)]
            assert np.isfinite(heats).all()


def same(one: Floats, other: Floats) -> None:
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-8 * float(np.abs(other).max()))


def compare_with_captum(kind: type[Odd]) -> None:
    net, pixels = kind().eval().double(), images(1, SIZE, torch.float64)
    (evidence,) = evidence_at(in_memory(kind().double(), PREPROCESS_16), "second", pixels, [[1]])
    same(grad_cam(evidence)[0], LayerGradCam(net, net.second).attribute(pixels, target=1)[0, 0].detach().numpy())


@pytest.mark.parametrize("kind", [View, Assigned, Masked, Cached], ids=lambda kind: kind.__name__)
def test_an_odd_networks_grad_cam_is_captums(kind: type[Odd]) -> None:
    compare_with_captum(kind)


def test_a_network_whose_gradient_cant_be_recorded_predicts_and_says_so() -> None:
    net, pixels = Spectral().eval().double(), images(2, SIZE, torch.float64)
    found = in_memory(Spectral().double(), PREPROCESS_16)
    assert "it writes into a part of a tensor" in found.manifest.limits[0]
    with torch.no_grad():
        same(Passes(found, pixels).logits, net(pixels).numpy())
    with pytest.raises(Unexplainable, match="it writes into a part of a tensor"):
        evidence_at(found, "first", pixels, [[1], [1]])


class Hooked(Odd):
    """Its classifier's logits are changed by a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier.register_forward_hook(lambda _module, _inputs, logits: logits * 2)

    def odd(self, x: Tensor) -> Tensor:
        return x


class Cosine(Odd):
    """Classifies by the angle to normalised weights."""

    def odd(self, x: Tensor) -> Tensor:
        return x

    def end(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x.mean((2, 3))), F.normalize(self.classifier.weight))


@pytest.mark.parametrize("kind", [Hooked, Cosine])
def test_a_classifier_that_is_not_plainly_linear_is_differentiated(kind: type[Odd]) -> None:
    found = in_memory(kind(), PREPROCESS_16)
    assert found.spec.default_layer == "second"
    assert found.manifest.values["second"].linear is None
    compare_with_captum(kind)


class Rounded(Odd):
    def odd(self, x: Tensor) -> Tensor:
        x = (self.mid(x) > 0).to(x.dtype)
        return x


def test_where_the_logits_dont_follow_an_activation_there_is_no_gradient() -> None:
    found = in_memory(Rounded().double(), PREPROCESS_16)
    assert "gt" not in found.spec.by_name  # truth values are no map
    with pytest.raises(Unexplainable, match="the logits do not follow it"):
        evidence_at(found, "first", images(1, SIZE, torch.float64), [[1]])


class Strided(Odd):
    """Reads memory in the order in which a map without channels last would lie in it."""

    def odd(self, x: Tensor) -> Tensor:
        return x.as_strided(x.shape, (512, 64, 8, 1))


class ByCount(Odd):
    """Scales by the number of images, so that two and three look alike."""

    def odd(self, x: Tensor) -> Tensor:
        return x * float(len(x.shape) + x.shape[0] // 2)


@pytest.mark.parametrize(
    ("kind", "why"),
    [(Strided, "as_strided reads memory in an order that is not the service's"), (ByCount, "other logits from")],
)
def test_what_would_be_wrong_in_a_graph_is_refused(kind: type[Odd], why: str) -> None:
    with pytest.raises(UntraceableError, match=why):
        TracedNetwork(kind().eval(), SIZE)


class Normalised(Odd):
    """Reads a number from its pixels, which is another for each picture."""

    def odd(self, x: Tensor) -> Tensor:
        return x if x.amax().item() > 1e9 else x * 2


class Compared(Odd):
    """Asks whether its pixels are all the same, which noise never is."""

    def odd(self, x: Tensor) -> Tensor:
        return x * 2 if torch.equal(x, x[:, :1]) else x


class Counted(Odd):
    """Does more where a picture is bright, which noise never is."""

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
def test_what_asks_for_a_picture_s_numbers_is_not_traced_with_the_answer_of_another(kind: type[Odd]) -> None:
    with pytest.raises(UntraceableError, match="what depends on the pixels"):
        TracedNetwork(kind().eval(), SIZE)


class Filled(Odd):
    """Makes an index by writing it."""

    def odd(self, x: Tensor) -> Tensor:
        order = torch.full_like(x[0, :, 0, 0], 10**6).long()
        order[:] = torch.arange(x.shape[1])
        return x[:, order]


def test_what_is_written_is_read_later() -> None:
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
def test_a_network_whose_answer_depends_on_chance_or_company_is_refused(kind: type[Odd], why: str) -> None:
    refused = "can't be traced with pixels of 16x16: it computes other logits"
    with pytest.raises(UntraceableError, match=f"{kind.__name__} {refused} {why}"):
        TracedNetwork(kind().eval(), SIZE)


class Fixed(nn.Module):
    """Has no parameters at all."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).mean((2, 3))


def test_a_network_without_parameters_is_compiled() -> None:
    spec = in_memory(Fixed(), PREPROCESS_16).spec
    assert [layer.name for layer in spec.layers] == ["mul"]
    assert "no heat map" in spec.default_layer_reason
