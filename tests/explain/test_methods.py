"""Tests that every method of the registry must pass. A new method is tested without a change here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pellucid import types
from pellucid.explain.evidence import Evidence
from pellucid.explain.methods import METHODS, Method, ProbingMethod, costly, differentiated, offered, registry
from pellucid.explain.methods.fusion import fused
from pellucid.explain.probe import GivenUpError
from pellucid.network.spec import PIXELS, SOFTMAX, OutputSpec
from pellucid.types import Contrast, Floats, Fusion, MapSpec, Plan
from tests.explain.passes import Passes, evidence, exact, pictures, probe, run
from tests.networks import SIZE, compiled

OF_EVIDENCE = {name: method for name, method in METHODS.items() if isinstance(method, Method)}
PROBING = {name: method for name, method in METHODS.items() if isinstance(method, ProbingMethod)}
OF_ATTENTION = [name for name, method in METHODS.items() if method.spec.of_attention]
AT_LAYERS = [name for name, method in METHODS.items() if method.spec.at_layers]
AT_PIXELS = [name for name, method in METHODS.items() if method.spec.at_pixels and name not in OF_ATTENTION]
# An early, a middle, and the default layer. At the default layer, the gradient has a closed form.
LAYERS = ("stem", "gate", "head")
# Each method at each of these places, and the network. A map of attention belongs to no layer.
CASES = [("tiny", name, layer) for name in AT_LAYERS for layer in LAYERS]
CASES += [("tokens", name, PIXELS) for name in OF_ATTENTION]
IN_THE_MIDDLE = [case for case in CASES if case[2] in ("gate", PIXELS)]


def plan(name: str, *layers: str, targets: tuple[int, ...] = (3, 1), **more: object) -> Plan:
    return replace(Plan(targets=targets, heat_maps=(MapSpec(name, layers),), samples=4), **more)  # type: ignore[arg-type]


def heat_maps(*plans: Plan, name: str = "tiny") -> list[list[Floats]]:
    return [[explanation.heat for explanation in outcome.explanations] for outcome in run(name, *plans)]


def random(*shape: int, seed: int = 0) -> Any:
    """Normally distributed numbers in float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def same(one: Any, other: Any, within: float = 1e-9) -> None:
    np.testing.assert_allclose(one, other, rtol=within, atol=within * float(np.abs(other).max()))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_describes_itself(name: str) -> None:
    spec = METHODS[name].spec
    assert spec.name == name
    assert spec.title
    assert spec.paper
    assert spec.formula
    assert (METHODS[name].heat.__doc__ or "").startswith("heat")
    assert spec.at_layers or spec.at_pixels


def test_cheap_methods_are_listed_first() -> None:
    needs = [method.spec.needs for method in METHODS.values()]
    assert next(iter(METHODS)) == "grad-cam"
    assert [*dict.fromkeys(needs)] == [
        *("gradient", "activation", "attention", "attention gradient"),
        *("forwards", "position forwards", "network forwards", "gradients"),
    ]


def test_a_decorated_function_is_a_complete_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "of-none", METHODS["grad-cam"])  # so that monkeypatch removes it at the end

    @registry.method("of-none", title="Of none", needs="gradient", formula="the gradient", paper="none", signed=False)
    def of_none(evidence: Evidence) -> Floats:
        return evidence.gradient[:, 0]

    assert not METHODS["of-none"].spec.signed
    ((outcome,),) = heat_maps(plan("of-none", "stem", targets=(3,)))
    (found,) = evidence("tiny", "stem", pictures(1), [[3]])
    same(outcome, of_none(found)[0])


@pytest.mark.parametrize(("net", "name", "layer"), CASES)
def test_a_map_is_as_large_as_its_layer_and_not_flat(net: str, name: str, layer: str) -> None:
    (found,) = heat_maps(plan(name, layer), name=net)
    assert len(found) == 2
    spec = compiled(net).spec
    for heat in found:
        assert heat.flags.c_contiguous  # JSON is written from its memory
        assert heat.shape == (spec.attentions[-1].grid if layer == PIXELS else spec.by_name[layer].shape[1:])
        assert np.isfinite(heat).all()
        # At the head, the gradient is the same at every position, and so is its mean over noisy copies.
        assert np.ptp(heat) > 0 or (name, layer) == ("smoothgrad", "head")
    assert (np.abs(found[0] - found[1]).max() > 0) == METHODS[name].spec.of_class


@pytest.mark.parametrize("name", AT_PIXELS)
def test_a_map_of_the_pixels_is_as_large_as_the_networks_input(name: str) -> None:
    (found,) = heat_maps(plan(name, PIXELS))
    assert [heat.shape for heat in found] == [SIZE] * 2


@pytest.mark.parametrize(("net", "name", "layer"), CASES)
def test_a_map_does_not_depend_on_other_images(net: str, name: str, layer: str) -> None:
    plans = [plan(name, layer, targets=targets) for targets in ((1,), (4, 0), (2,))]
    for i, of_image in enumerate(heat_maps(*plans, name=net)):
        (alone,) = Passes(compiled(net, torch.float64), pictures(3)[i : i + 1]).run(plans[i])
        for together, single in zip(of_image, alone.explanations, strict=True):
            same(together, single.heat)


@pytest.mark.parametrize(("net", "name", "layer"), IN_THE_MIDDLE)
def test_classes_explained_together_equal_those_explained_alone(net: str, name: str, layer: str) -> None:
    (both,) = heat_maps(plan(name, layer), name=net)
    for target, found in zip((3, 1), both, strict=True):
        same(found, heat_maps(plan(name, layer, targets=(target,)), name=net)[0][0])


@pytest.mark.parametrize(("net", "name", "layer"), [case for case in CASES if not METHODS[case[1]].spec.signed])
def test_an_unsigned_map_has_no_negative_values(net: str, name: str, layer: str) -> None:
    (found,) = heat_maps(plan(name, layer), name="tiny-relu" if net == "tiny" else net)  # layers behind a ReLU
    assert min(heat.min() for heat in found) >= 0


@pytest.mark.parametrize("name", OF_EVIDENCE)
def test_a_zero_gradient_gives_a_zero_map(name: str) -> None:
    activation = np.abs(random(6, 5, 4))
    for shape in ((2, 6, 1, 1), (2, 6, 5, 4)):
        heat = OF_EVIDENCE[name].heat(Evidence(activation, 0 * random(*shape)))
        assert heat.any() != METHODS[name].spec.of_class


@pytest.mark.parametrize("name", OF_EVIDENCE)
@pytest.mark.parametrize("constant", [True, False])
def test_the_order_of_channels_does_not_matter(name: str, constant: bool) -> None:
    activation = np.abs(random(6, 5, 4))
    gradient = random(2, 6, *((1, 1) if constant else (5, 4)), seed=1)
    order, heat = [3, 1, 5, 0, 2, 4], OF_EVIDENCE[name].heat
    same(heat(Evidence(activation[order], gradient[:, order])), heat(Evidence(activation, gradient)))


@pytest.mark.parametrize("name", OF_EVIDENCE)
def test_a_constant_gradient_may_have_one_position(name: str) -> None:
    activation, gradient = np.abs(random(6, 5, 4)), random(2, 6, 1, 1, seed=1)
    heat = OF_EVIDENCE[name].heat
    everywhere = np.broadcast_to(gradient, (2, 6, 5, 4))
    same(heat(Evidence(activation, gradient)), heat(Evidence(activation, everywhere)))


# A method of "network forwards" runs the whole network at any layer, so it has no closed form.
@pytest.mark.parametrize("name", [name for name in PROBING if PROBING[name].spec.needs != "network forwards"])
def test_the_closed_form_equals_running_the_head(name: str) -> None:
    closed, head = probe("tiny", "head", linear=True), probe("tiny", "head", linear=False)
    assert closed.linear is not None
    assert head.linear is None
    same(PROBING[name].heat(closed), PROBING[name].heat(head))


@pytest.mark.parametrize("name", [*PROBING])
def test_a_method_stops_between_passes_once_the_caller_left(name: str) -> None:
    calls = 0

    def void() -> bool:
        nonlocal calls
        calls += 1
        return calls > 1

    of_image = replace(probe("resnet18", "layer1", dtype=torch.float32), samples=64, void=void)
    with pytest.raises(GivenUpError):
        PROBING[name].heat(of_image)
    assert calls == 2


def test_an_abandoned_image_is_marked_and_its_neighbour_is_answered() -> None:
    plans = (plan("ablation-cam", "gate"),) * 2
    gone, stays = run("tiny", *plans, void=(lambda: True, lambda: False))
    assert gone.given_up
    assert not stays.given_up
    assert len(stays.explanations) == 2


def test_several_maps_stop_between_maps_once_the_caller_left() -> None:
    several = replace(plan("hirescam", "stem"), heat_maps=tuple(MapSpec("hirescam", (layer,)) for layer in LAYERS))
    gone, stays = run("tiny", several, several, void=(lambda: True, lambda: False))
    assert gone.given_up
    assert (stays.given_up, len(stays.explanations)) == (False, 6)


def test_methods_that_share_a_gradient_equal_those_run_alone() -> None:
    names = [name for name, method in OF_EVIDENCE.items() if method.spec.needs == "gradient"]
    together = replace(plan(names[0], "stem"), heat_maps=tuple(MapSpec(name, ("stem",)) for name in names))
    assert (differentiated(together), costly(together)) == (("stem",), ())
    (outcome,) = run("tiny", together)
    found = outcome.explanations
    assert [(each.method, each.target.index) for each in found] == [(name, k) for name in names for k in (3, 1)]
    for n, name in enumerate(names):
        for one, alone in zip(found[2 * n : 2 * n + 2], heat_maps(plan(name, "stem"))[0], strict=True):
            same(one.heat, alone)


@pytest.mark.parametrize(("net", "name", "layer"), IN_THE_MIDDLE)
def test_a_method_shares_a_gradient_or_has_passes_of_its_own(net: str, name: str, layer: str) -> None:
    single = plan(name, layer)
    shares = METHODS[name].spec.needs == "gradient"
    assert differentiated(single) == ((layer,) if shares else ())
    assert costly(single) == (() if shares else ((name, layer),))


def test_methods_of_attention_are_offered_where_there_is_attention() -> None:
    everywhere = [name for name in METHODS if name not in OF_ATTENTION]
    assert [spec.name for spec in offered(compiled("tiny").spec, SOFTMAX)] == everywhere
    assert [spec.name for spec in offered(compiled("tokens").spec, SOFTMAX)] == [*METHODS]
    first, *others = offered(compiled("tiny").spec, OutputSpec("dense"))
    assert first.name == "hirescam"
    assert [spec.name for spec in others] == [name for name in everywhere if name != first.name]
    assert (*OF_ATTENTION,) == types.OF_ATTENTION


@pytest.mark.parametrize(("net", "name", "layer"), IN_THE_MIDDLE)
def test_a_contrast_is_the_difference_of_maps_for_linear_methods(net: str, name: str, layer: str) -> None:
    contrast = Contrast((1, 4), 0.6)
    ((found,),) = heat_maps(plan(name, layer, targets=(3,), contrast=contrast), name=net)
    ((alone, one, four),) = heat_maps(plan(name, layer, targets=(3, 1, 4)), name=net)
    if name in ("grad-cam", "hirescam", "xgrad-cam", "ablation-cam", "integrated-gradients"):
        same(found, alone - 0.6 * (one + four) / 2, within=1e-6)  # weights of logits are float32
    assert (np.abs(found - alone).max() > 0) == METHODS[name].spec.of_class


@pytest.mark.parametrize("name", [*OF_EVIDENCE, "ablation-cam", "recipro-cam", "integrated-gradients", "smoothgrad"])
def test_a_class_against_itself_gives_a_zero_map(name: str) -> None:
    for layer in LAYERS:
        ((found,),) = heat_maps(plan(name, layer, targets=(3,), contrast=Contrast((3,))))
        assert found.any() != METHODS[name].spec.of_class


def test_hirescam_sums_to_the_logit_minus_the_bias() -> None:
    net = exact("resnet18")
    assert isinstance(net.fc, nn.Linear)
    targets = [[0, 5], [7, 2]]
    logits, bias = net(pictures(2)).detach().numpy(), net.fc.bias.detach().numpy()
    for image, found in enumerate(evidence("resnet18", "layer4", pictures(2), targets)):
        heat = OF_EVIDENCE["hirescam"].heat(found)
        same(heat.sum((1, 2)), logits[image, targets[image]] - bias[targets[image]])


@pytest.mark.parametrize(("name", "layer"), [("tiny", PIXELS), ("tiny", "stem"), ("resnet18", "layer3")])
def test_integrated_gradients_sum_to_the_difference_from_the_baseline(name: str, layer: str) -> None:
    of_image = replace(probe(name, layer), samples=128)
    heat = PROBING["integrated-gradients"].heat(of_image)
    whole = of_image.varied[None]
    difference = of_image.scores(whole) - of_image.scores(np.zeros_like(whole))
    same(heat.sum((1, 2)), difference[0], within=0.01)


def test_xgrad_cam_sums_to_gradient_times_activation() -> None:
    (found,) = evidence("resnet18", "layer2", pictures(1), [[0, 5]])
    same(OF_EVIDENCE["xgrad-cam"].heat(found).sum((1, 2)), (found.gradient * found.activation).sum((1, 2, 3)))


def test_ablation_weights_equal_those_measured_in_the_plain_network() -> None:
    of_image = probe("tiny", "stem")
    net = exact("tiny")
    activation = of_image.activation
    expected = 0 * random(2, *activation.shape[1:])
    whole = net(pictures(1))[0, [3, 1]]
    for c, channel in enumerate(activation):
        hidden = activation.copy()
        hidden[c] = 0
        put = torch.from_numpy(hidden[None])
        handle = net.get_submodule("stem").register_forward_hook(lambda *_, put=put: put)
        change = whole - net(pictures(1))[0, [3, 1]]
        handle.remove()
        expected += change.detach().numpy()[:, None, None] * channel
    same(PROBING["ablation-cam"].heat(of_image), expected)


@pytest.mark.parametrize("how", ["mean", "max", "product"])
def test_a_fused_map_has_the_finest_resolution_and_lies_in_0_to_1(how: Fusion) -> None:
    coarse, fine = random(2, 4, 4), random(2, 16, 16)
    found = fused([coarse, fine], how)
    assert found.shape == (2, 16, 16)
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    nothing = fused([coarse, -np.abs(fine)], how)
    assert nothing.any() == (how != "product")


@pytest.mark.parametrize("how", ["mean", "max", "product"])
def test_several_layers_are_fused_from_one_pass(how: Fusion) -> None:
    several = Plan(targets=(3,), heat_maps=(MapSpec("layercam", LAYERS, how),))
    (outcome,) = run("tiny", several)
    (found,) = outcome.explanations
    apart = [heat_maps(plan("layercam", layer, targets=(3,)))[0][0] for layer in found.layers]
    same(found.heat, fused(apart, how))
    assert (found.layer, found.fuse) == ("stem + gate + head", how)
