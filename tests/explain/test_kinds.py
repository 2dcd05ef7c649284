"""Labels, quantities, segmentations and embeddings: their maps equal those by pytorch-grad-cam's targets; their scores.

The oracles are given a network whose one class is the value of their target. They and ours run in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputTarget,
    RawScoresOutputTarget,
    SemanticSegmentationTarget,
)
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.oracles import ENLARGED, ORACLES, Enlarged, difference, enlarged
from pellucid.compiler.compiling import compile_network
from pellucid.explain.image_record import ImageRecord
from pellucid.explain.methods import METHODS
from pellucid.explain.scalars import settled
from pellucid.explain.scores import Scores
from pellucid.network.file import CompiledNetwork
from pellucid.network.spec import ModelSpec, OutputKind, OutputSpec
from pellucid.parts.trust import scoring_plan
from pellucid.render.compose import positive
from pellucid.types import Contrast, Edit, Explanation, Floats, MapSpec, Mask, Outcome, Plan, Reference, Region
from tests.explain.passes import Passes, pictures
from tests.networks import PREPROCESS, SIZE, TinyNet, images

LABELS = ("a", "b", "c", "d", "e")
LAYERS = ("head", "stem")  # the default, and an early one
GRADIENT = [name for name, method in METHODS.items() if method.spec.needs == "gradient"]
Target = Callable[[Tensor], Tensor]


class Dense(nn.Module):
    """A segmentation ``[B, 4, 16, 16]``, whose second class wins nowhere."""

    def __init__(self, activation: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), activation())
        self.head = nn.Sequential(nn.Conv2d(8, 12, 3, 4, 1), activation())
        self.classifier = nn.Conv2d(12, 4, 3, 1, 1, bias=False)
        self.bias = nn.Parameter(torch.tensor([0.0, -50, 0, 0])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(self.head(self.stem(x))) + self.bias
        return F.interpolate(logits, (16, 16), mode="bilinear", align_corners=False)


class SimilarityToConceptTarget:
    """The cosine with other features, as in pytorch-grad-cam's notebook "Pixel Attribution for embeddings"."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def __call__(self, model_output: Tensor) -> Tensor:
        cosine: Tensor = torch.nn.CosineSimilarity(dim=0)(model_output, self.features)
        return cosine


class Scalar(nn.Module):
    """A network with one class: the value of a target."""

    def __init__(self, net: nn.Module, target: Target) -> None:
        super().__init__()
        self.net, self.target = net, target

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.target(output) for output in self.net(x)])[:, None]


@cache
def network(kind: OutputKind, relu: bool = False) -> nn.Module:
    """A seeded network in float64, without kinks unless ``relu``."""
    torch.manual_seed(0)
    activation = nn.ReLU if relu else nn.SiLU
    net = Dense(activation) if kind == "dense" else TinyNet(len(LABELS), activation)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(images(8))
    return net.eval().double()


def compiled(net: nn.Module, output: OutputSpec, labels: tuple[str, ...]) -> CompiledNetwork:
    return compile_network(net, ModelSpec("own", "", labels, PREPROCESS, "a seed", output=output), None)


@cache
def compiled_kind(kind: OutputKind, relu: bool = False) -> CompiledNetwork:
    labels = {"dense": LABELS[:4], "embedding": ()}.get(kind, LABELS)
    output = OutputSpec(kind, background=0) if kind == "dense" else OutputSpec(kind)
    return compiled(network(kind, relu), output, labels)


def outcome(net: CompiledNetwork, plan: Plan, picture: Tensor | None = None) -> Outcome:
    (found,) = Passes(net, pictures(1) if picture is None else picture).run(plan)
    assert not found.fault
    return found


def mapped(net: CompiledNetwork, plan: Plan, method: str, layer: str) -> tuple[Explanation, ...]:
    return outcome(net, replace(plan, heat_maps=(MapSpec(method, (layer,)),))).explanations


def plus_plus(net: CompiledNetwork, plan: Plan, layer: str) -> Floats:
    """Grad-CAM++ of the enlarged scalar, of which it is no multiple."""
    plan = replace(plan, heat_maps=(MapSpec("grad-cam", (layer,)),))
    record = Passes(net, pictures(1)).record([plan])
    image = ImageRecord(0, plan, record, Scores.of_logits(record.logits, record.output), lambda: False)
    found: Any = METHODS["grad-cam-plus-plus"]
    heat: Floats = found.heat(enlarged(image.evidence(layer)))[0]
    return heat / ENLARGED


def other_picture() -> Tensor:
    return pictures(3)[2:]


def features(net: nn.Module) -> Tensor:
    """The embedding of the other picture."""
    with torch.no_grad():
        found: Tensor = net(other_picture())[0]
        return found


def positions(net: nn.Module, index: int) -> Mask:
    """Where the class has the largest logit: ``[16, 16]``."""
    with torch.no_grad():
        found: Mask = (net(pictures(1))[0].argmax(0) == index).numpy()
        return found


MASK = np.zeros((16, 16), bool)
MASK[3:9, 5:14] = True


def case(kind: OutputKind, relu: bool = False) -> tuple[Plan, Target]:
    """A plan, and the target of pytorch-grad-cam that is the same scalar."""
    net = network(kind, relu)
    if kind == "dense":
        target = SemanticSegmentationTarget(2, MASK.astype(np.float64) / MASK.sum())  # their sum is our mean
        return Plan(targets=(2,), regions=(Region("mask", mask=MASK),)), target
    if kind == "embedding":
        vector = features(net)
        return Plan(targets=(0,), reference=Reference(F.normalize(vector, dim=0).numpy())), SimilarityToConceptTarget(
            vector
        )
    return Plan(targets=(2,)), ClassifierOutputTarget(2)


KINDS: tuple[OutputKind, ...] = ("sigmoid", "linear", "dense", "embedding")


def agree(method: str, ours: Floats, kind: OutputKind, layer: str, target: Target, net: nn.Module) -> None:
    """Compare a map with all oracles of its method, in which the target's gradient is enlarged if ours is used."""
    scalar: nn.Module = Scalar(net, target)
    path = f"net.{layer}"
    if method in GRADIENT:
        scalar, path = Enlarged(scalar), f"net.net.{layer}"
        ours = ours * ENLARGED
    for whose, oracle in ORACLES[method].items():
        theirs = oracle(scalar, path, pictures(1), 0)
        assert np.abs(theirs).max() > 0
        assert difference(method, ours, theirs) < 1e-4, (kind, method, layer, whose)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_maps_of_each_kind_equal_the_oracles(kind: OutputKind, layer: str) -> None:
    plan, target = case(kind)
    for method in [*GRADIENT, "score-cam"]:
        (found,) = mapped(compiled_kind(kind), plan, method, layer)
        heat = plus_plus(compiled_kind(kind), plan, layer) if method == "grad-cam-plus-plus" else found.heat
        agree(method, heat, kind, layer, target, network(kind))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", KINDS)
def test_ablation_of_each_kind_equals_the_oracles(kind: OutputKind, layer: str) -> None:
    """Behind a ReLU: theirs hides a channel by zeros only if there are some."""
    plan, target = case(kind, relu=True)
    (found,) = mapped(compiled_kind(kind, relu=True), plan, "ablation-cam", layer)
    agree("ablation-cam", found.heat, kind, layer, target, network(kind, relu=True))


@pytest.mark.parametrize(
    ("kind", "targets"),
    [
        ("linear", (lambda output: RawScoresOutputTarget()(output)[0], lambda output: -output[0])),
        ("sigmoid", [lambda output, sign=sign: BinaryClassifierOutputTarget(sign)(output)[0] for sign in (1, 0)]),
    ],
)
def test_a_single_number_is_the_raw_score_and_down_is_the_negated_map(
    kind: OutputKind, targets: Sequence[Target]
) -> None:
    torch.manual_seed(1)
    net = TinyNet(1).eval().double()
    found = compiled(net, OutputSpec(kind), ("years",))
    plans = [Plan(targets=(0,), direction=sign) for sign in (1, -1)]
    for method in GRADIENT:
        maps = [mapped(found, plan, method, "stem")[0].heat for plan in plans]
        if method == "grad-cam-plus-plus":
            maps = [plus_plus(found, plan, "stem") for plan in plans]
        for heat, target in zip(maps, targets, strict=True):
            agree(method, heat, kind, "stem", target, net)
        if method in ("grad-cam", "hirescam", "xgrad-cam"):  # the others cut or square the gradient
            np.testing.assert_allclose(maps[1], -maps[0], rtol=0, atol=1e-12 * np.abs(maps[0]).max())


@pytest.mark.parametrize("layer", LAYERS)
def test_the_sum_over_a_mask_gives_the_same_scaled_map(layer: str) -> None:
    plan, _ = case("dense")
    (found,) = mapped(compiled_kind("dense"), plan, "grad-cam", layer)
    whole = Scalar(network("dense"), SemanticSegmentationTarget(2, MASK.astype(np.float64)))
    theirs = ORACLES["grad-cam"]["pytorch-grad-cam"](whole, f"net.{layer}", pictures(1), 0)
    assert difference("grad-cam", found.heat * MASK.sum(), theirs) < 1e-4
    np.testing.assert_allclose(positive(found.heat, *SIZE), positive(theirs, *SIZE), atol=1e-4)


def test_by_default_a_class_is_explained_where_it_wins() -> None:
    net = network("dense")
    with torch.no_grad():
        best = net(pictures(1))[0].argmax(0)
    shares = [float((best == index).double().mean()) for index in range(4)]
    index = max((2, 3), key=shares.__getitem__)
    found = outcome(compiled_kind("dense"), Plan(top_k=4, heat_maps=(MapSpec("grad-cam", ("stem",)),)))
    (explained,) = found.explanations
    assert explained.target.index == index
    assert explained.target.share == pytest.approx(shares[index])
    assert explained.region is not None
    assert explained.region.kind == "class"
    np.testing.assert_array_equal(explained.region.mask, positions(net, index))
    target = SemanticSegmentationTarget(index, positions(net, index).astype(np.float64) / positions(net, index).sum())
    agree("grad-cam", explained.heat, "dense", "stem", target, net)
    assert found.segmentation is not None
    np.testing.assert_array_equal(found.segmentation, best)
    assert [each.index for each in found.predictions] == sorted(
        (each for each in range(4) if shares[each]), key=lambda each: -shares[each]
    )
    assert sum(each.share or 0 for each in found.predictions) == pytest.approx(1)


def test_a_class_that_wins_nowhere_is_explained_in_the_whole_picture() -> None:
    (found,) = mapped(compiled_kind("dense"), Plan(targets=(1,), regions=(Region(),)), "grad-cam", "stem")
    assert found.region is not None
    assert found.region.mask is not None
    assert found.region.kind == "picture"
    assert found.region.mask.all()
    assert found.target.share == 0
    target = SemanticSegmentationTarget(1, np.full((16, 16), 1 / 256))
    agree("grad-cam", found.heat, "dense", "stem", target, network("dense"))


def test_each_target_of_a_segmentation_has_its_own_region() -> None:
    found = mapped(compiled_kind("dense"), Plan(targets=(3, 0, 1)), "hirescam", "stem")
    alone = [mapped(compiled_kind("dense"), Plan(targets=(index,)), "hirescam", "stem")[0] for index in (3, 0, 1)]
    for one, other in zip(found, alone, strict=True):
        assert one.region is not None
        assert other.region is not None
        np.testing.assert_array_equal(one.region.mask, other.region.mask)
        np.testing.assert_allclose(one.heat, other.heat, rtol=0, atol=1e-12 * np.abs(other.heat).max())
        assert one.target == other.target


def test_trials_score_each_target_over_its_own_region() -> None:
    net = compiled_kind("dense")
    whole = outcome(net, Plan(targets=(3, 0, 1), heat_maps=(MapSpec("grad-cam", ("stem",)),)))
    again = outcome(net, scoring_plan(Plan(), whole, None))
    assert [each.probability for each in again.scored] == [
        pytest.approx(each.target.probability) for each in whole.explanations
    ]


def test_a_contrast_within_a_region_is_the_difference_of_the_means() -> None:
    plan, target = case("dense")
    against = SemanticSegmentationTarget(0, MASK.astype(np.float64) / MASK.sum())
    (found,) = mapped(compiled_kind("dense"), replace(plan, contrast=Contrast((0,), 0.6)), "grad-cam", "stem")
    agree(
        "grad-cam",
        found.heat,
        "dense",
        "stem",
        lambda output: target(output) - 0.6 * against(output),
        network("dense"),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_that_changes_nothing_and_one_that_does(kind: OutputKind) -> None:
    plan, _ = case(kind)
    plain = outcome(compiled_kind(kind), replace(plan, layer="stem", top_k=9))
    for factor in (1.0, 0.0):
        edited = outcome(compiled_kind(kind), replace(plan, layer="stem", top_k=9, edit=Edit(((0, factor),)))).what_if
        assert edited is not None
        ((before, after),) = edited.targets
        assert before.target.logit == pytest.approx(plain.explanations[0].target.logit, rel=1e-9)
        assert (before.target.logit == pytest.approx(after.target.logit, rel=1e-9)) == (factor == 1)
        assert [each.index for each in edited.before] == [each.index for each in plain.predictions]


# -- scores


def scores(output: OutputSpec, *logits: Any) -> Scores:
    with np.errstate(over="ignore"):
        return Scores.of_logits(np.array(logits, np.float32).reshape(len(logits), -1), output)


def test_independent_labels_have_a_sigmoid_each() -> None:
    found = scores(OutputSpec("sigmoid", (3,)), [0.0, -200.0, 2.0])
    (of_image,) = found.top([9])
    assert [each.index for each in of_image] == [2, 0, 1]
    assert [each.probability for each in of_image] == pytest.approx([1 / (1 + np.exp(-2)), 0.5, 0])
    assert settled(Plan(), found, 0).targets == (2,)


def test_quantities_keep_their_order_and_have_no_probability() -> None:
    found = scores(OutputSpec("linear", (3,)), [1.0, -5.0, 7.0])
    (of_image,) = found.top([2])
    assert [(each.index, each.logit, each.probability) for each in of_image] == [(0, 1.0, None), (1, -5.0, None)]
    assert settled(Plan(), found, 0).targets == (0,)
    assert settled(Plan(contrast=Contrast((0,))), found, 0).targets == (1,)


def test_the_background_is_explained_last() -> None:
    dense = OutputSpec("dense", (3, 1, 4), background=0)
    mostly = scores(dense, [[5, 5, 5, 0], [0, 0, 0, 0], [0, 0, 0, 5]])
    only = scores(dense, [[5, 5, 5, 5], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert [each.default_target(0) for each in (mostly, only)] == [2, 1]
    assert scores(replace(dense, background=None), [[5, 5, 5, 0], [0] * 4, [0, 0, 0, 5]]).default_target(0) == 0
    assert [(each.index, each.share) for each in mostly.top([9])[0]] == [(0, 0.75), (2, 0.25)]
    assert [(each.index, each.share) for each in only.top([9])[0]] == [(0, 1.0)]


def test_a_single_class_applies_where_its_logit_is_positive() -> None:
    found = scores(OutputSpec("dense", (1, 2, 2)), [[3.0, -1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(found.segmentations[0], [[1, 0], [1, 0]])
    ((prediction,),) = found.top([5])
    assert (prediction.index, prediction.share, prediction.logit) == (0, 0.5, 2.0)
    plan = settled(Plan(targets=(0,)), found, 0)
    np.testing.assert_array_equal(plan.regions[0].mask, [[True, False], [True, False]])
    expected = np.mean(1 / (1 + np.exp([-3.0, -1.0])))
    assert found.of(0, 0, plan.region(0), plan).probability == pytest.approx(expected)


def test_the_probability_of_a_region_is_the_mean_of_softmax_there() -> None:
    net, (plan, _) = network("dense"), case("dense")
    with torch.no_grad():
        logits = net(pictures(1))[0]
    (found,) = mapped(compiled_kind("dense"), plan, "grad-cam", "head")
    assert found.target.probability == pytest.approx(float(logits.softmax(0)[2][torch.from_numpy(MASK)].mean()))
    assert found.target.logit == pytest.approx(float(logits[2][torch.from_numpy(MASK)].mean()))


def test_the_score_of_an_embedding_is_the_cosine() -> None:
    plan, target = case("embedding")
    net = network("embedding")
    with torch.no_grad():
        output = net(pictures(1))[0]
    found = outcome(compiled_kind("embedding"), replace(plan, layer="head"))
    assert found.explanations[0].target.logit == pytest.approx(float(target(output)))
    assert found.embedding is not None
    np.testing.assert_allclose(found.embedding, F.normalize(output, dim=0), atol=1e-12)
    assert found.predictions == ()
    itself = Plan(targets=(0,), layer="head", reference=Reference(found.embedding))
    assert outcome(compiled_kind("embedding"), itself).explanations[0].target.logit == pytest.approx(1)
