"""Class names are found as given before anything is made of them, and no request draws without bound."""

from __future__ import annotations

import pytest

from pellucid.errors import InvalidOption, UnknownName
from pellucid.explain.methods import METHODS
from pellucid.network.spec import LayerSpec, ModelSpec, NetworkSpec, PreprocessSpec
from pellucid.parts.option_types import Options
from pellucid.parts.options import ExplainOptions, FeatureMapOptions, GradCamOptions, Part, RoutePart, WhatIfOptions
from pellucid.parts.plan import Look, bound_drawing, class_index, resolve
from pellucid.types import Plan, Tap

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


CAM: frozenset[Part] = frozenset({"grad_cam"})
MAPS: frozenset[Part] = frozenset({"feature_maps"})


@pytest.mark.parametrize(
    ("images", "plan", "look"),
    [
        (32, Plan(taps=tuple(map(Tap, "abc"))), Look(CAM | MAPS, overlay=True)),
        (1, Plan(targets=tuple(range(20))), Look(CAM, overlay=True)),
        (1, Plan(), Look(CAM, overlay=True, max_side=4096)),
    ],
    ids=["every image of a large request", "many targets", "one large overlay"],
)
def test_what_callers_usually_ask_for_is_drawn(images: int, plan: Plan, look: Look) -> None:
    bound_drawing(images, plan, look)


@pytest.mark.parametrize(
    ("images", "plan", "look"),
    [
        (1, Plan(targets=tuple(range(20))), Look(CAM, overlay=True, max_side=4096)),
        (1, Plan(taps=tuple(Tap(name, count=256) for name in "abcdefgh")), Look(MAPS, tile=512)),
        (1, Plan(taps=(Tap("gate", count=256, gate=True),)), Look(MAPS, tile=512)),
        (32, Plan(), Look(CAM, max_side=4096)),
    ],
    ids=["targets", "tiles", "both sides of a gate", "images"],
)
def test_pictures_that_would_hold_up_everybody_are_refused(images: int, plan: Plan, look: Look) -> None:
    with pytest.raises(InvalidOption, match="million pixels"):
        bound_drawing(images, plan, look)


MAP_LOOK = {
    "colormap": "viridis",
    "signed": True,
    "overlay": True,
    "alpha": 0.25,
    "max_side": 64,
    "trust": True,
    "trust_steps": 3,
    "trust_maps": 5,
}
GRID_LOOK = {"colormap": "magma", "scale": "layer", "columns": 3, "tile": 32}


@pytest.mark.parametrize(
    ("kind", "part", "shown"),
    [
        (GradCamOptions, "grad_cam", MAP_LOOK),
        (FeatureMapOptions, "feature_maps", GRID_LOOK),
        (ExplainOptions, "grad_cam", GRID_LOOK | MAP_LOOK),
        (GradCamOptions, "grad_cam", {"provenance": True}),
        (WhatIfOptions, "what_if", {"signed": True, "max_side": 64}),
    ],
)
def test_every_option_of_how_it_is_shown_arrives(
    kind: type[Options], part: RoutePart, shown: dict[str, object]
) -> None:
    assert look(kind.model_validate(shown), part) == Look(frozenset({part}), **shown)  # type: ignore[arg-type]


def test_the_factors_of_an_edit_are_no_scale_of_colours() -> None:
    assert look(WhatIfOptions(scale=["0:2"]), "what_if").scale == "channel"


def look(options: Options, part: RoutePart) -> Look:
    network = NetworkSpec((LayerSpec("only", "Conv2d", (1, 2, 2)),), (), "only", "there is no other", ("only",))
    return resolve(options, frozenset({part}), SPEC, network, [METHODS["grad-cam"].spec])[1]
