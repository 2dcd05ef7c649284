"""What the engine is told to compute, which classes come first, and that answers are the caller's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from pellucid.explain.batch import explain
from pellucid.explain.evidence import resolved, wanted
from pellucid.explain.methods import METHODS
from pellucid.explain.scores import Scores, ascending, strongest
from pellucid.types import Batch, Contrast, Edit, Floats, Heat, Plan, Tap
from tests.explain.cuts import Passes, pictures
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
def test_a_row_is_wanted_for_each_target_and_one_more_for_what_is_the_first_targets_own(
    plan: Plan, rows: list[list[float]]
) -> None:
    np.testing.assert_array_equal(wanted(plan, [1, 3], 4), rows)


def test_the_class_that_is_explained_is_the_best_and_of_equals_the_first() -> None:
    logits = np.array([1, 3, 2, 3], np.float32)
    assert resolved(Plan(), logits) == [1]
    assert resolved(Plan(targets=(2, 0)), logits) == [2, 0]
    assert resolved(Plan(contrast=Contrast((1,))), logits) == [3]
    assert resolved(Plan(contrast=Contrast((3, 1))), logits) == [2]
    assert resolved(Plan(contrast=Contrast((0, 1, 2, 3))), logits) == [1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_are_ordered_with_equals_in_their_own_order(dtype: type[np.floating[Any]]) -> None:
    values: Any = np.random.default_rng(0).integers(-3, 4, (5, 300)).astype(dtype) / 3
    values[0, ::2] *= -1  # among them zeros of either sign
    np.testing.assert_array_equal(ascending(values), values.argsort(1, kind="stable"))
    for count in (0, 1, 7, 300, 301):
        np.testing.assert_array_equal(strongest(values, count), (-values).argsort(1, kind="stable")[:, :count])


def test_how_many_classes_are_asked_for_beside_an_image_changes_nothing() -> None:
    scores = Scores.of_logits(np.array([[1, 2, 2, 0], [0, 0, 0, 0]], np.float32))
    assert [[each.index for each in image] for image in scores.top([2, 9])] == [[1, 2], [0, 1, 2, 3]]
    assert [[each.index for each in image] for image in scores.top([0, 1])] == [[], [0]]
    (first,), _ = scores.top([1, 1])
    assert first.probability == pytest.approx(np.exp(2) / (np.exp([1, 2, 2, 0]).sum()))
    assert scores.of(0, 1) == first


def arrays(value: Any) -> Iterator[Any]:
    if isinstance(value, np.ndarray):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from arrays(getattr(value, field.name))
    elif isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from arrays(each)


def test_no_answer_lies_in_memory_that_the_next_pass_may_overwrite() -> None:
    passes = Passes(compiled("tiny", torch.float64), pictures(1))
    plans = (
        Plan(
            gates=True,
            effects=True,
            restore=("gate",),
            layer="stem",
            heats=tuple(Heat(name, ("stem",)) for name in ("grad-cam", "hirescam", "eigen-cam", "score-cam-at-layer")),
            taps=(Tap("stem"), Tap("head", channels=(0, 1)), Tap("gate", gate=True)),
            random_heads=1,
        ),
        Plan(gates=True, layer="gate", edit=Edit(((0, 0.5),), gate="gate", ranked=True)),
    )
    for plan in plans:
        record = passes.record([plan])
        outcomes = explain(record, Batch(np.zeros((1, 1, 1, 3), np.uint8), (plan,)), passes.net.spec, 0.0)
        lent, answered = [*arrays(record)], [*arrays(outcomes)]
        assert len(answered) > 5
        assert not any(np.shares_memory(one, other) for one in lent for other in answered)


def test_an_answer_has_the_dtype_of_the_runtime() -> None:
    for dtype in (torch.float32, torch.float64):
        passes = Passes(compiled("tiny", dtype), pictures(1).to(dtype))
        heats = tuple(Heat(name, ("gate",)) for name in METHODS)
        (outcome,) = passes.run(Plan(targets=(1,), heats=(*heats, Heat("grad-cam", ("stem", "head"))), samples=2))
        kept = {str(each.heat.dtype) for each in outcome.explanations}
        assert kept == {str(dtype).removeprefix("torch.")}


@pytest.mark.parametrize("where", ["logits", "heat map", "importance", "gates", "feature maps"])
def test_a_number_that_is_none_is_a_fault_of_its_image_alone(where: str) -> None:
    passes = Passes(compiled("tiny"), pictures(2).float())
    plans = tuple(
        Plan(gates=True, layer="head", targets=(target,), taps=(Tap("stem", channels=(0,)),)) for target in (1, 2)
    )
    record = passes.record(plans)
    broken: dict[str, Any] = {
        "logits": {"logits": spoilt(record.logits, 1)},
        "heat map": {"maps": {**record.maps, "head": spoilt(record.maps["head"], 1)}},
        "importance": {"linear": {"head": spoilt(record.linear["head"], 2)}},  # of the second image's class
        "gates": {"gates": {"gate": spoilt(record.gates["gate"], 1)}},
        "feature maps": {"maps": {**record.maps, "stem": spoilt(record.maps["stem"], 1)}},
    }
    record = dataclasses.replace(record, **broken[where])
    good, bad = explain(record, Batch(np.zeros((2, 1, 1, 3), np.uint8), plans), passes.net.spec, 0.0)
    assert where in bad.fault
    assert good.fault == ""


def spoilt(values: Floats, row: int) -> Floats:
    values = values.copy()
    values[row] = np.nan
    return values
