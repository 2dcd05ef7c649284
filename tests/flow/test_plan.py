"""Class names are found as given before anything is made of them, and no request draws without bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from pellucid.errors import InvalidOption, UnknownName
from pellucid.explain.methods import METHODS
from pellucid.lookup import class_index
from pellucid.network.spec import ONE_SIZE, LayerSpec, ModelSpec, NetworkSpec, OutputSpec, PreprocessSpec, Sizes
from pellucid.parts.attention import AttentionOptions
from pellucid.parts.explain import PARTS, ExplainOptions, Part
from pellucid.parts.feature_maps import FeatureMapOptions
from pellucid.parts.grad_cam import GradCamOptions
from pellucid.parts.option_types import Options
from pellucid.parts.predictions import PredictOptions
from pellucid.types import MethodSpec, Plan, Tap

LABELS = ("golden_retriever", "tiger cat", "Cardigan", "cardigan")
SPEC = ModelSpec("own", "Own", LABELS, PreprocessSpec((8, 8), 8, "bilinear", (0, 0, 0), (1, 1, 1)), "this test")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("golden_retriever", 0),
        ("tiger cat", 1),
        ("tiger_cat", 1),
        ("TIGER CAT", 1),
        ("Cardigan", 2),
        ("cardigan", 3),
        ("2", 2),
    ],
)
def test_a_class_is_found_by_its_label_or_index(name: str, index: int) -> None:
    assert class_index(name, SPEC) == index


@pytest.mark.parametrize("name", ["CARDIGAN", "retriever", "4", "-1"])
def test_what_names_no_one_class_is_refused(name: str) -> None:
    with pytest.raises(UnknownName):
        class_index(name, SPEC)


@pytest.mark.parametrize(
    ("images", "options", "plan"),
    [
        (32, ExplainOptions(overlay=True), Plan(taps=tuple(map(Tap, "abc")))),
        (1, GradCamOptions(overlay=True), Plan(targets=tuple(range(20)))),
        (1, GradCamOptions(overlay=True, max_side=4096), Plan()),
    ],
    ids=["every image of a large request", "many targets", "one large overlay"],
)
def test_what_callers_usually_ask_for_is_drawn(images: int, options: Options, plan: Plan) -> None:
    options.bound(images, plan)


@pytest.mark.parametrize(
    ("images", "options", "plan"),
    [
        (1, GradCamOptions(overlay=True, max_side=4096), Plan(targets=tuple(range(20)))),
        (1, FeatureMapOptions(tile=512), Plan(taps=tuple(Tap(name, count=256) for name in "abcdefgh"))),
        (1, FeatureMapOptions(tile=512), Plan(taps=(Tap("gate", count=256, gate=True),))),
        (32, GradCamOptions(max_side=4096), Plan()),
    ],
    ids=["targets", "tiles", "both sides of a gate", "images"],
)
def test_pictures_that_would_hold_up_everybody_are_refused(images: int, options: Options, plan: Plan) -> None:
    with pytest.raises(InvalidOption, match="million pixels"):
        options.bound(images, plan)


def test_the_segmentation_counts_among_the_pixels_that_are_drawn() -> None:
    offer = Offered(replace(SPEC, output=OutputSpec("dense", (4, 2, 2))))
    for options, most in (
        (PredictOptions(), 122),
        (GradCamOptions(), 61),
        (ExplainOptions(include=["predictions", "grad_cam"]), 61),
        (ExplainOptions(include=["predictions"]), 122),
    ):
        options.plan(offer, most)
        with pytest.raises(InvalidOption, match="million pixels"):
            options.plan(offer, most + 1)
        options.plan(Offered(), most + 1)


NETWORK = NetworkSpec((LayerSpec("only", "Conv2d", (1, 2, 2)),), (), "only", "there is no other", ("only",))


@dataclass(frozen=True)
class Offered:
    """What the options are planned for."""

    spec: ModelSpec = SPEC
    network: NetworkSpec = NETWORK
    methods: Sequence[MethodSpec] = (METHODS["grad-cam"].spec,)
    sizes: Sizes = ONE_SIZE
    atlas: None = None


@pytest.mark.parametrize("part", PARTS)
def test_an_explanation_asks_what_its_parts_ask(part: Part) -> None:
    """Each part alone, and nothing of the options of the others."""
    given = {"target": ["tiger cat"], "layer": ["only"]}
    alone: dict[Part, Options] = {
        "predictions": PredictOptions(),
        "attention": AttentionOptions(target=["tiger cat"], layer="only", effects=False),
        "feature_maps": FeatureMapOptions(),
        "grad_cam": GradCamOptions(target=["tiger cat"], layer=["only"]),
    }
    mix = ExplainOptions(include=[part], **given)
    plan = mix.plan(Offered(), 1)
    assert plan == alone[part].plan(Offered(), 1)
    assert mix.pixels(plan) == alone[part].pixels(plan)


def test_maps_that_are_not_included_are_not_tried() -> None:
    assert ExplainOptions(trust=True).design
    assert ExplainOptions(trust=True, include=["predictions"]).design is None


def test_the_first_of_the_other_quantities_is_explained_against_some() -> None:
    offer = Offered(replace(SPEC, output=OutputSpec("linear")))
    for against, target in (([], 0), (["0"], 1), (["1"], 0), (["1", "0"], 2)):
        plan = ExplainOptions(against=against).plan(offer, 1)
        assert plan.targets == (target,)
        assert (plan.contrast.against if plan.contrast else ()) == tuple(map(int, against))
    with pytest.raises(InvalidOption, match="is the target itself"):
        GradCamOptions(against=[*"0123"]).plan(offer, 1)
