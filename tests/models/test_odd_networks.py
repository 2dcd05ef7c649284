"""Networks as people write them: in place, by views, detached, masked, for one image. All are explained as they run."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.nn import functional as F

from models.graph import TracedNetwork, UntraceableError
from service.explain.cam import grad_cam
from service.explain.evidence import Head, gather
from tests.networks import images

SIZE = (16, 16)


class Odd(nn.Module, ABC):
    """Two convolutions, and between them what the subclass is odd in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.mid, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.mlp, self.both, self.classifier = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 5)
        self.flat = nn.Linear(8 * 64, 5)

    @abstractmethod
    def odd(self, x: Tensor) -> Tensor: ...

    def end(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.second(self.odd(self.first(x))))

    def scale(self, x: Tensor) -> Tensor:
        scale: Tensor = self.mlp(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return scale


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
    """A mask, an index and a spectrum pass a cut by."""

    def odd(self, x: Tensor) -> Tensor:
        mask, strongest, spectrum = x > 0, x.argmax(1, keepdim=True), torch.fft.rfft2(x)
        y = self.mid(x).masked_fill(mask, 0.5)
        y = y + y.gather(1, strongest)
        x = y + torch.fft.irfft2(spectrum, s=(8, 8))
        return x


class Cached(Odd):
    """Keeps what it computed, as many do to look at it."""

    def odd(self, x: Tensor) -> Tensor:
        self.kept = self.mid(x)
        x = {"maps": [self.kept, x]}["maps"][0]
        return x


def served(net: nn.Module) -> TracedNetwork:
    return TracedNetwork(net.eval(), SIZE)


@pytest.mark.parametrize("kind", Odd.__subclasses__(), ids=lambda kind: kind.__name__)
def test_an_odd_network_is_cut_anywhere_and_computes_the_same_for_any_number_of_images(kind: type[Odd]) -> None:
    net, pixels = kind().eval(), images(5, SIZE)
    traced = served(kind())
    assert traced.spec.default_layer, traced.spec.default_layer_reason
    for layer in traced.spec.by_name:
        cut = traced.cut(layer)
        for count in (1, 5):
            some = pixels[:count].contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                crossing = traced.trunk(cut.inputs)(some)
                expected = net(pixels[:count].clone()).reshape(count, 5)
                torch.testing.assert_close(cut.head(*crossing), expected, msg=layer)
            heats = [grad_cam(each) for each in gather(crossing, [[1]] * count, Head(cut.inputs, cut.head, cut.linear))]
            assert all(heat.isfinite().all() for heat in heats)


def compare_with_captum(kind: type[Odd]) -> None:
    net, pixels, traced = kind().eval(), images(1, SIZE), served(kind())
    cut = traced.cut("second")
    with torch.no_grad():
        crossing = traced.trunk(cut.inputs)(pixels)
    (evidence,) = gather(crossing, [[1]], Head(cut.inputs, cut.head, cut.linear))
    expected = LayerGradCam(net, net.second).attribute(pixels, target=1)[0, 0].detach()
    torch.testing.assert_close(grad_cam(evidence)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [View, Assigned, Masked, Cached], ids=lambda kind: kind.__name__)
def test_an_odd_networks_grad_cam_is_captums(kind: type[Odd]) -> None:
    compare_with_captum(kind)


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
    assert served(kind()).spec.default_layer == "second"
    compare_with_captum(kind)


class Rounded(Odd):
    def odd(self, x: Tensor) -> Tensor:
        x = (self.mid(x) > 0).to(x.dtype)
        return x


def test_where_the_logits_dont_follow_an_activation_its_heat_map_is_zero() -> None:
    traced = served(Rounded())
    cut = traced.cut("first")
    with torch.no_grad():
        crossing = traced.trunk(cut.inputs)(images(1, SIZE))
    (evidence,) = gather(crossing, [[1]], Head(cut.inputs, cut.head, cut.linear))
    assert not grad_cam(evidence).any()
    assert "gt" not in traced.spec.by_name  # truth values are no map


class Overwriting(nn.Module):
    """Gates its input in place and returns the input."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x.relu_()
        x.mul_(self.mlp(x.mean((2, 3))).sigmoid()[:, :, None, None])
        return x


class WithOverwriting(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Overwriting()

    def odd(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        return x


def test_a_module_that_returns_what_it_has_overwritten_is_named_after_the_result() -> None:
    net = WithOverwriting().eval()
    returned: list[Tensor] = []
    net.gate.register_forward_hook(lambda _module, _inputs, output: returned.append(output.clone()))
    with torch.no_grad():
        net(images(1, SIZE))
    traced = served(WithOverwriting())
    (gate,) = traced.spec.gates
    assert (gate.layer, gate.before, gate.after) == ("gate", "gate.relu_", "gate")
    with torch.no_grad():
        (value,) = traced.trunk([traced.value("gate")])(images(1, SIZE))
    torch.testing.assert_close(value, returned[0])


class Shifted(Odd):
    """1 + a sigmoid."""

    def odd(self, x: Tensor) -> Tensor:
        return x * (1 + self.scale(x))


class Parted(Odd):
    """Two gates from one sigmoid."""

    def odd(self, x: Tensor) -> Tensor:
        one, other = self.both(x.mean((2, 3))).sigmoid().view(-1, 16, 1, 1).chunk(2, 1)
        x = x * one + self.mid(x) * other
        return x


class Twice(Odd):
    def odd(self, x: Tensor) -> Tensor:
        return x * self.scale(x) * self.scale(x)


class OnPixels(Odd):
    """A gate on the picture itself, which is no layer."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3)).sigmoid()[:, :, None, None]
        return super().forward(x * scale)

    def odd(self, x: Tensor) -> Tensor:
        return x


class OverChannels(Odd):
    """Softmax over the channels at each position: no number per channel."""

    def odd(self, x: Tensor) -> Tensor:
        return x * x.softmax(1)


class OnePixel(Odd):
    """A gate on a map of one position."""

    def odd(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        return x + pooled * self.scale(pooled)


@pytest.mark.parametrize(
    ("kind", "gates"),
    [(Shifted, 1), (Parted, 2), (Twice, 2), (OnPixels, 0), (OverChannels, 0), (OnePixel, 0)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_multiplies_channels_is_a_gate_and_nothing_else(kind: type[Odd], gates: int) -> None:
    traced = served(kind())
    assert len({gate.spec.layer for gate in traced.gates}) == len(traced.gates) == gates
    for gate in traced.gates:
        with torch.no_grad():
            before, after, weights = traced.trunk([gate.before, gate.after, gate.weights])(images(2, SIZE))
        torch.testing.assert_close(after, before * weights.flatten(1)[:, :, None, None])


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
def test_what_would_be_wrong_in_the_service_is_served_for_predictions_alone_or_not_at_all(
    kind: type[Odd], why: str
) -> None:
    try:
        said = served(kind()).spec.default_layer_reason
    except UntraceableError as error:
        said = str(error)
    assert why in said


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
    served_with = "can't be served with pixels of 16x16: it computes other logits"
    with pytest.raises(UntraceableError, match=f"{kind.__name__} {served_with} {why}"):
        served(kind())
