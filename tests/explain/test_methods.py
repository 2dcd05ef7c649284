"""What every method of the registry promises, whichever it is: a newcomer is held to it as it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.explain.evidence import Evidence
from pellucid.explain.methods import METHODS, Method, ProbingMethod, costly, differentiated
from pellucid.explain.methods.fusion import fused
from pellucid.explain.methods.probe import GivenUpError
from pellucid.network.spec import PIXELS
from pellucid.types import Batch, Contrast, Explanation, Floats, Fusion, Heat, Plan
from service.engine.torch_engine import TorchEngine
from tests.engine.test_torch_engine import OF_TEN, SPEC
from tests.engine.test_torch_engine import PIXELS as PICTURES
from tests.explain.cuts import evidence, exact, pictures, probe
from tests.networks import images, network, traced

OF_EVIDENCE = {name: method for name, method in METHODS.items() if isinstance(method, Method)}
PROBING = {name: method for name, method in METHODS.items() if isinstance(method, ProbingMethod)}
AT_PIXELS = [name for name, method in METHODS.items() if method.spec.at_pixels]
# An early, a middle and the default layer; of the last the gradient is known in closed form.
LAYERS = ("stem", "gate", "head")


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(network("tiny"), SPEC, torch.device("cpu"))


def plan(name: str, *layers: str, targets: tuple[int, ...] = (3, 1), **more: object) -> Plan:
    return replace(Plan(targets=targets, heats=(Heat(name, layers),), samples=4), **more)  # type: ignore[arg-type]


def explained(engine: TorchEngine, *plans: Plan) -> list[tuple[Explanation, ...]]:
    return [outcome.explanations for outcome in engine.run(Batch(PICTURES[: len(plans)], plans))]


def heats(engine: TorchEngine, *plans: Plan) -> list[list[Floats]]:
    return [[explanation.heat for explanation in of_image] for of_image in explained(engine, *plans)]


def same(one: Any, other: Any, within: float = 1e-4) -> None:
    one, other = np.asarray(one), np.asarray(other)
    np.testing.assert_allclose(one, other, rtol=within, atol=within * float(np.abs(other).max()))


@pytest.mark.parametrize("name", METHODS)
def test_it_says_what_it_is(name: str) -> None:
    spec = METHODS[name].spec
    assert spec.name == name
    assert spec.title
    assert spec.paper
    assert spec.formula
    assert (METHODS[name].heat.__doc__ or "").startswith("heat")
    assert spec.at_layers or spec.at_pixels


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_map_is_as_large_as_its_layer_and_not_flat(engine: TorchEngine, name: str, layer: str) -> None:
    (found,) = heats(engine, plan(name, layer))
    assert len(found) == 2
    for heat in found:
        assert heat.shape == traced("tiny").spec.by_name[layer].shape[1:]
        assert np.isfinite(heat).all()
        # Where the gradient is the same everywhere, so is its mean over noisy copies.
        assert np.ptp(heat) > 0 or (name, layer) == ("smoothgrad", "head")
    assert (np.abs(found[0] - found[1]).max() > 0) == METHODS[name].spec.of_class


@pytest.mark.parametrize("name", AT_PIXELS)
def test_a_map_of_the_pixels_is_as_large_as_the_networks_input(engine: TorchEngine, name: str) -> None:
    (found,) = heats(engine, plan(name, PIXELS))
    assert [heat.shape for heat in found] == [SPEC.preprocess.size] * 2


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", METHODS)
def test_a_map_depends_on_no_neighbour(engine: TorchEngine, name: str, layer: str) -> None:
    plans = [plan(name, layer, targets=targets) for targets in ((1,), (4, 0), (2,))]
    for i, of_image in enumerate(heats(engine, *plans)):
        (alone,) = engine.run(Batch(PICTURES[i : i + 1], (plans[i],)))
        for together, single in zip(of_image, alone.explanations, strict=True):
            same(together, single.heat)


@pytest.mark.parametrize("name", METHODS)
def test_several_classes_at_once_are_each_as_by_itself(engine: TorchEngine, name: str) -> None:
    (both,) = heats(engine, plan(name, "gate"))
    for target, found in zip((3, 1), both, strict=True):
        same(found, heats(engine, plan(name, "gate", targets=(target,)))[0][0])


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.spec.signed])
@pytest.mark.parametrize("layer", ["stem", "head"])  # behind a ReLU
def test_a_map_that_is_not_signed_has_nothing_below_zero(name: str, layer: str) -> None:
    behind_relu = TorchEngine(network("tiny-relu"), SPEC, torch.device("cpu"))
    (found,) = heats(behind_relu, plan(name, layer))
    assert min(heat.min() for heat in found) >= 0


@pytest.mark.parametrize("name", OF_EVIDENCE)
def test_without_a_gradient_there_is_no_evidence(name: str) -> None:
    activation = images(1)[0].abs()
    for shape in ((2, 3, 1, 1), (2, *activation.shape)):
        heat = METHODS[name].heat(Evidence(activation, torch.zeros(shape)))  # type: ignore[arg-type]
        assert heat.any() != METHODS[name].spec.of_class


@pytest.mark.parametrize("name", OF_EVIDENCE)
@pytest.mark.parametrize("constant", [True, False])
def test_the_order_of_channels_does_not_matter(name: str, constant: bool) -> None:
    chance = torch.Generator().manual_seed(2)
    activation = torch.rand(6, 5, 4, generator=chance)
    gradient = torch.randn(2, 6, *((1, 1) if constant else (5, 4)), generator=chance)
    order = torch.randperm(6, generator=chance)
    heat: Callable[[Evidence], Tensor] = OF_EVIDENCE[name].heat
    same(heat(Evidence(activation[order], gradient[:, order])), heat(Evidence(activation, gradient)))


@pytest.mark.parametrize("name", OF_EVIDENCE)
def test_a_gradient_that_is_the_same_everywhere_may_come_as_one_number(name: str) -> None:
    chance = torch.Generator().manual_seed(3)
    activation, gradient = torch.rand(6, 5, 4, generator=chance), torch.randn(2, 6, 1, 1, generator=chance)
    heat: Callable[[Evidence], Tensor] = OF_EVIDENCE[name].heat
    same(heat(Evidence(activation, gradient)), heat(Evidence(activation, gradient.expand(2, 6, 5, 4))))


# A method of "network forwards" runs the whole network wherever it is.
@pytest.mark.parametrize("name", [name for name in PROBING if PROBING[name].spec.needs != "network forwards"])
def test_the_closed_form_equals_running_the_head(name: str) -> None:
    closed, run = probe("tiny", "head", linear=True), probe("tiny", "head", linear=False)
    assert closed.linear is not None
    assert run.linear is None
    same(PROBING[name].heat(closed), PROBING[name].heat(run))


@pytest.mark.parametrize("name", [*PROBING])
def test_nobody_waiting_any_more_ends_it_between_its_passes(name: str) -> None:
    asked = 0

    def void() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    of_image = replace(probe("resnet18", "layer1", dtype=torch.float32), samples=64, void=void)
    with pytest.raises(GivenUpError):
        PROBING[name].heat(of_image)
    assert asked == 2


def test_an_image_that_is_given_up_says_so_and_its_neighbour_is_answered(engine: TorchEngine) -> None:
    plans = (plan("ablation-cam", "gate"),) * 2
    gone, stays = engine.run(Batch(PICTURES[:2], plans, (lambda: True, lambda: False)))
    assert gone.given_up
    assert not stays.given_up
    assert len(stays.explanations) == 2


def test_maps_at_several_layers_end_between_them_where_nobody_waits(engine: TorchEngine) -> None:
    several = replace(plan("hirescam", "stem"), heats=tuple(Heat("hirescam", (layer,)) for layer in LAYERS))
    gone, stays = engine.run(Batch(PICTURES[:2], (several,) * 2, (lambda: True, lambda: False)))
    assert gone.given_up
    assert (stays.given_up, len(stays.explanations)) == (False, 6)


def test_methods_that_share_a_gradient_are_each_as_by_itself(engine: TorchEngine) -> None:
    names = [name for name, method in OF_EVIDENCE.items() if method.spec.needs == "gradient"]
    together = replace(plan(names[0], "stem"), heats=tuple(Heat(name, ("stem",)) for name in names))
    assert engine.lane(together) == engine.lane(Plan(layer="stem", targets=(3, 1)))
    (found,) = explained(engine, together)
    assert [(each.method, each.target.index) for each in found] == [(name, k) for name in names for k in (3, 1)]
    for n, name in enumerate(names):
        for one, alone in zip(found[2 * n : 2 * n + 2], heats(engine, plan(name, "stem"))[0], strict=True):
            same(one.heat, alone)


def test_what_has_passes_of_its_own_has_a_lane_of_its_own(engine: TorchEngine) -> None:
    lanes = {engine.lane(plan(name, "head")) for name in METHODS}
    for name in METHODS:
        asked = plan(name, "head")
        cheap = METHODS[name].spec.needs == "gradient"  # in closed form
        assert (engine.lane(asked) == "") == cheap
        assert bool(costly(asked)) != bool(differentiated(asked)) == cheap
    assert len(lanes) == 1 + sum(method.spec.needs != "gradient" for method in METHODS.values())


@pytest.mark.parametrize("name", METHODS)
def test_a_class_against_another_is_the_difference_where_the_method_is_linear_in_it(
    engine: TorchEngine, name: str
) -> None:
    contrast = Contrast((1, 4), 0.6)
    ((found,),) = heats(engine, plan(name, "gate", targets=(3,), contrast=contrast))
    ((alone, one, four),) = heats(engine, plan(name, "gate", targets=(3, 1, 4)))
    if name in ("grad-cam", "hirescam", "xgrad-cam", "ablation-cam", "integrated-gradients"):
        same(found, alone - 0.6 * (one + four) / 2, within=1e-3)
    assert (np.abs(found - alone).max() > 0) == METHODS[name].spec.of_class


@pytest.mark.parametrize("name", [*OF_EVIDENCE, "ablation-cam", "integrated-gradients", "smoothgrad"])
def test_a_class_against_itself_leaves_nothing(engine: TorchEngine, name: str) -> None:
    for layer in LAYERS:
        ((found,),) = heats(engine, plan(name, layer, targets=(3,), contrast=Contrast((3,))))
        assert found.any() != METHODS[name].spec.of_class


def test_hirescam_sums_to_the_logit_less_its_bias() -> None:
    net = exact("resnet18")
    assert isinstance(net.fc, nn.Linear)
    pixels = pictures(2)
    for image, found in enumerate(evidence("resnet18", "layer4", pixels, [[0, 5], [7, 2]])):
        logits = net(pixels)[image]
        for k, target in enumerate(([0, 5], [7, 2])[image]):
            total = OF_EVIDENCE["hirescam"].heat(found)[k].sum()
            torch.testing.assert_close(total, logits[target] - net.fc.bias[target], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "layer"), [("tiny", PIXELS), ("tiny", "stem"), ("resnet18", "layer3")])
def test_integrated_gradients_sum_to_the_difference_from_the_baseline(name: str, layer: str) -> None:
    of_image = replace(probe(name, layer, dtype=torch.float32), samples=128)
    heat = PROBING["integrated-gradients"].heat(of_image)
    whole = of_image.crossing[0]
    with torch.no_grad():
        difference = of_image.scores(whole) - of_image.scores(torch.zeros_like(whole))
    same(heat.sum((1, 2)), difference[0], within=0.01)


def test_xgrad_cam_sums_to_gradient_times_activation() -> None:
    (found,) = evidence("resnet18", "layer2", pictures(1), [[0, 5]])
    same(OF_EVIDENCE["xgrad-cam"].heat(found).sum((1, 2)), (found.gradient * found.activation).sum((1, 2, 3)))


def test_every_channel_that_ablation_weighs_is_measured_in_the_plain_network() -> None:
    of_image = probe("tiny", "stem")
    net = exact("tiny")
    activation = of_image.activation
    expected = torch.zeros(2, *activation.shape[1:])
    behind = traced("tiny", torch.float64).cut("stem").head
    with torch.no_grad():
        whole = net(pictures(1))[0, [3, 1]]
        for c in range(len(activation)):
            hidden = activation.clone()
            hidden[c] = 0
            expected += (whole - behind(hidden[None])[0, [3, 1]])[:, None, None] * activation[c]
    same(PROBING["ablation-cam"].heat(of_image), expected, within=1e-3)


@pytest.mark.parametrize("how", ["mean", "max", "product"])
def test_fused_maps_are_as_fine_as_the_finest_and_lie_in_0_to_1(how: Fusion) -> None:
    coarse, fine = torch.randn(2, 4, 4), torch.randn(2, 16, 16)
    found = fused([coarse, fine], how)
    assert found.shape == (2, 16, 16)
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    nothing = fused([coarse, -fine.abs()], how)
    assert bool(nothing.any()) == (how != "product")


@pytest.mark.parametrize("how", ["mean", "max", "product"])
def test_several_layers_are_fused_from_one_pass(how: Fusion) -> None:
    engine = TorchEngine(network("efficientnet_b0"), OF_TEN, torch.device("cpu"))
    several = Plan(targets=(3,), heats=(Heat("layercam", ("features", "features.3", "features.5"), how),))
    ((found,),) = explained(engine, several)
    alone = [plan("layercam", layer, targets=(3,)) for layer in found.layers]
    apart = [torch.from_numpy(heats(engine, each)[0][0])[None] for each in alone]
    same(found.heat, fused(apart, how)[0], within=1e-3)
    assert (found.layer, found.fuse) == ("features + features.3 + features.5", how)
