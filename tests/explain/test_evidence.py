"""Which scalars are differentiated, the order of classes, and that outcomes own their memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.explain.batch import explain
from pellucid.explain.methods import METHODS
from pellucid.explain.scalars import settled, wanted
from pellucid.explain.scores import Scores, ascending, strongest
from pellucid.network.spec import PIXELS, SOFTMAX
from pellucid.types import Batch, Contrast, Edit, Floats, MapSpec, Plan, Region, Tap
from tests.explain.passes import Passes, pictures
from tests.networks import compiled

AGAINST = Contrast((0, 2), 0.5)
OWN = [0, 1, 0, 0]
LESS = [-0.25, 1, -0.25, 0]


@pytest.mark.parametrize(
    ("plan", "rows"),
    [
        (Plan(layer="head", gates=True, effects=True), [OWN, [0, 0, 0, 1]]),
        (Plan(layer="head", contrast=AGAINST), [LESS, [-0.25, 0, -0.25, 1]]),
        (Plan(layer="head", gates=True, contrast=AGAINST), [LESS, [-0.25, 0, -0.25, 1], OWN]),
        (Plan(gates=True, effects=True, contrast=AGAINST), [LESS, [-0.25, 0, -0.25, 1], OWN]),
        (Plan(gates=True, contrast=AGAINST), [LESS, [-0.25, 0, -0.25, 1]]),
        (Plan(layer="head", effects=True, contrast=AGAINST), [LESS, [-0.25, 0, -0.25, 1]]),
        (Plan(layer="head", gates=True, edit=Edit(), contrast=AGAINST), [LESS, [-0.25, 0, -0.25, 1]]),
    ],
)
def test_wanted_has_a_row_for_each_target_and_one_for_the_first_without_a_contrast(
    plan: Plan, rows: list[list[float]]
) -> None:
    np.testing.assert_array_equal(wanted(dataclasses.replace(plan, targets=(1, 3)), SOFTMAX, 4), rows)


def test_the_explained_class_has_the_largest_logit_and_the_first_of_equals_wins() -> None:
    scores = Scores.of_logits(np.array([[1, 3, 2, 3]], np.float32), SOFTMAX)
    for plan, targets in (
        (Plan(), (1,)),
        (Plan(targets=(2, 0)), (2, 0)),
        (Plan(contrast=Contrast((1,))), (3,)),
        (Plan(contrast=Contrast((3, 1))), (2,)),
        (Plan(contrast=Contrast((0, 1, 2, 3))), (1,)),
    ):
        assert settled(plan, scores, 0).targets == targets


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_values_keep_their_order(dtype: type[np.floating[Any]]) -> None:
    values: Any = np.random.default_rng(0).integers(-3, 4, (5, 300)).astype(dtype) / 3
    values[0, ::2] *= -1  # includes zeros of both signs
    np.testing.assert_array_equal(ascending(values), values.argsort(1, kind="stable"))
    for count in (0, 1, 7, 300, 301):
        np.testing.assert_array_equal(strongest(values, count), (-values).argsort(1, kind="stable")[:, :count])


def test_top_k_of_one_image_does_not_change_another() -> None:
    scores = Scores.of_logits(np.array([[1, 2, 2, 0], [0, 0, 0, 0]], np.float32), SOFTMAX)
    assert [[each.index for each in image] for image in scores.top([2, 9])] == [[1, 2], [0, 1, 2, 3]]
    assert [[each.index for each in image] for image in scores.top([0, 1])] == [[], [0]]
    (first,), _ = scores.top([1, 1])
    assert first.probability == pytest.approx(np.exp(2) / (np.exp([1, 2, 2, 0]).sum()))
    assert scores.of(0, 1, Region(), Plan()) == first


def arrays(value: Any) -> Iterator[Any]:
    if isinstance(value, np.ndarray):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from arrays(getattr(value, field.name))
    elif isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from arrays(each)


def test_outcomes_share_no_memory_with_the_record() -> None:
    passes = Passes(compiled("tiny", torch.float64), pictures(1))
    plans = (
        Plan(
            gates=True,
            effects=True,
            restore=("gate",),
            layer="stem",
            heat_maps=tuple(
                MapSpec(name, ("stem",)) for name in ("grad-cam", "hirescam", "eigen-cam", "score-cam-at-layer")
            ),
            taps=(Tap("stem"), Tap("head", channels=(0, 1)), Tap("gate", gate=True)),
            random_heads=1,
        ),
        Plan(gates=True, layer="gate", edit=Edit(((0, 0.5),), gate="gate", ranked=True)),
    )
    for plan in plans:
        record = passes.record([plan])
        outcomes = explain(record, Batch(np.zeros((1, 1, 1, 3), np.uint8), (plan,)), passes.net.spec, 0.0)
        recorded, returned = [*arrays(record)], [*arrays(outcomes)]
        assert len(returned) > 5
        assert not any(np.shares_memory(one, other) for one in recorded for other in returned)


def test_an_answer_has_the_dtype_of_the_runtime() -> None:
    for dtype in (torch.float32, torch.float64):
        passes = Passes(compiled("tiny", dtype), pictures(1).to(dtype))
        heat_maps = tuple(MapSpec(name, ("gate",)) for name, method in METHODS.items() if method.spec.at_layers)
        (outcome,) = passes.run(
            Plan(targets=(1,), heat_maps=(*heat_maps, MapSpec("grad-cam", ("stem", "head"))), samples=2)
        )
        kept = {str(each.heat.dtype) for each in outcome.explanations}
        tokens = Passes(compiled("tokens", dtype), pictures(1).to(dtype))
        of_attention = tuple(MapSpec(name, (PIXELS,)) for name, method in METHODS.items() if method.spec.of_attention)
        kept |= {str(each.heat.dtype) for each in tokens.run(Plan(heat_maps=of_attention))[0].explanations}
        assert kept == {str(dtype).removeprefix("torch.")}


@pytest.mark.parametrize("where", ["logits", "heat map", "importance", "gates", "feature maps"])
def test_nan_is_a_fault_of_its_image_only(where: str) -> None:
    passes = Passes(compiled("tiny"), pictures(2).float())
    plans = tuple(
        Plan(gates=True, layer="head", targets=(target,), taps=(Tap("stem", channels=(0,)),)) for target in (1, 2)
    )
    record = passes.record(plans)
    broken: dict[str, Any] = {
        "logits": {"logits": with_nan(record.logits, 1)},
        "heat map": {"maps": {**record.maps, "head": with_nan(record.maps["head"], 1)}},
        "importance": {"linear": {"head": with_nan(record.linear["head"], 2)}},  # class 2 is the second image's target
        "gates": {"gates": {"gate": with_nan(record.gates["gate"], 1)}},
        "feature maps": {"maps": {**record.maps, "stem": with_nan(record.maps["stem"], 1)}},
    }
    record = dataclasses.replace(record, **broken[where])
    good, bad = explain(record, Batch(np.zeros((2, 1, 1, 3), np.uint8), plans), passes.net.spec, 0.0)
    assert where in bad.fault
    assert good.fault == ""


def with_nan(values: Floats, row: int) -> Floats:
    values = values.copy()
    values[row] = np.nan
    return values
