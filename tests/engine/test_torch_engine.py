"""One forward pass answers whatever mix of plans is in the batch, and no plan's answer depends on its neighbours."""

from __future__ import annotations

import dataclasses
import linecache
import math
import threading
import time
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.network.spec import ModelSpec, PreprocessSpec
from pellucid.types import Batch, Outcome, Plan, Tap
from service.dispatch.worker import Worker
from service.engine.choose import pick_device
from service.engine.torch_engine import TorchEngine
from tests.networks import SIZE, network, traced

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
SPEC = ModelSpec("tiny", "Tiny", tuple("abcde"), PreprocessSpec(SIZE, 64, "bilinear", MEAN, STD), "a seed")
OF_TEN = ModelSpec("ten", "Of ten classes", tuple("abcdefghij"), SPEC.preprocess, "a seed")
PLANS = (
    Plan(top_k=3),
    Plan(gates=True),
    Plan(layer="head"),
    Plan(layer="head", targets=(2, 0), gates=True),
    Plan(taps=(Tap("stem", count=3), Tap("head", channels=(5, 1)))),
    Plan(top_k=5, gates=True, taps=(Tap("stem"),), layer="head", targets=(4,)),
)
PIXELS = np.random.default_rng(0).integers(0, 256, (len(PLANS), *SIZE, 3), np.uint8)


class Exploding(nn.Module):
    """Overflows where a picture is white."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 5, 3)
        self.classifier = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x * torch.where(x >= 0.9, math.inf, 1.0).amin((1, 2, 3), keepdim=True))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return TorchEngine(network("tiny"), SPEC, torch.device("cpu"))


def leaves(value: Any) -> Iterator[Any]:
    """Every number, name and array of an outcome; its timings aside."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if not field.name.endswith("_s"):
                yield from leaves(getattr(value, field.name))
    elif isinstance(value, tuple):
        yield len(value)
        for item in value:
            yield from leaves(item)
    else:
        yield value


def assert_same(one: Outcome, other: Outcome) -> None:
    for mine, yours in zip(leaves(one), leaves(other), strict=True):
        if isinstance(mine, (float, np.ndarray)):
            np.testing.assert_allclose(mine, yours, rtol=1e-4, atol=1e-5)
        else:
            assert mine == yours


def test_predictions_are_the_plain_networks_on_normalised_pixels(engine: TorchEngine) -> None:
    x = (torch.from_numpy(PIXELS[:1]).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        logits = network("tiny")(x.permute(0, 3, 1, 2))[0]
    (outcome,) = engine.run(Batch(PIXELS[:1], (Plan(top_k=5),)))
    order = logits.argsort(descending=True)
    assert [p.index for p in outcome.predictions] == order.tolist()
    np.testing.assert_allclose([p.logit for p in outcome.predictions], logits[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([p.probability for p in outcome.predictions], logits.softmax(0)[order], rtol=1e-4)


def test_a_mixed_batch_answers_each_plan_as_if_it_were_alone(engine: TorchEngine) -> None:
    together = engine.run(Batch(PIXELS, PLANS))
    for i, plan in enumerate(PLANS):
        (alone,) = engine.run(Batch(PIXELS[i : i + 1], (plan,)))
        assert_same(together[i], alone)


def test_a_plan_gets_what_it_asks_for_and_nothing_else(engine: TorchEngine) -> None:
    predict, gates, top, several, maps, everything = engine.run(Batch(PIXELS, PLANS))
    assert (len(predict.predictions), predict.gates, predict.explanations, predict.maps) == (3, (), (), ())
    assert [gate.layer for gate in gates.gates] == ["gate"]
    assert gates.explanations == ()
    assert [e.target.index for e in top.explanations] == [top.predictions[0].index]
    assert [e.target.index for e in several.explanations] == [2, 0]
    assert [(m.layer, len(m.channels)) for m in maps.maps] == [("stem", 3), ("head", 2)]
    assert maps.maps[1].channels == (5, 1)
    assert everything.gates
    assert everything.maps
    assert everything.explanations


def assert_callers_get_their_own(engine: TorchEngine, max_batch: int = 4) -> None:
    """Eight callers at once, through a worker, get what each image gives by itself."""
    solo = [engine.run(Batch(PIXELS[i : i + 1], (plan,)))[0] for i, plan in enumerate(PLANS)]
    worker = Worker(engine, max_batch)
    failures: list[BaseException] = []

    def caller(seed: int) -> None:
        try:
            for i in np.random.default_rng(seed).permutation(len(PLANS)).tolist() * 3:
                future = worker.submit(PIXELS[i], PLANS[i], time.monotonic() + 3600)
                assert_same(future.result(60).outcome, solo[i])
        except BaseException as failure:
            failures.append(failure)

    worker.start()
    threads = [threading.Thread(target=caller, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.stop()
    assert not failures, failures[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_under_eight_callers_equal_single_images(threads: int) -> None:
    engine = TorchEngine(network("tiny"), SPEC, torch.device("cpu"), threads=threads)
    assert engine.slots == threads
    assert_callers_get_their_own(engine)


def test_a_deeper_cut_has_its_own_lane_and_the_closed_form_has_none(engine: TorchEngine) -> None:
    assert engine.lane(Plan()) == engine.lane(Plan(layer="head")) == ""
    assert engine.lane(Plan(layer="stem")) == engine.lane(Plan(layer="stem.2")) != ""  # two names of one value
    assert len({engine.lane(plan) for plan in (Plan(layer="stem"), Plan(effects=True), Plan(restore=("gate",)))}) == 3


def test_images_with_many_targets_do_not_slow_those_with_few(engine: TorchEngine) -> None:
    lanes = [engine.lane(Plan(layer="stem", targets=tuple(range(count)))) for count in range(6)]
    one, same, two, three, four, five = lanes
    assert one == same
    assert three == four
    assert len({one, two, three, five}) == 4
    assert engine.lane(Plan(layer="head", targets=(0, 1, 2))) == ""  # the closed form costs the same for all


def test_new_sets_of_layers_leave_no_source_behind(engine: TorchEngine) -> None:
    names = [layer.name for layer in engine.network.layers]

    def kept() -> int:
        return len(linecache.cache) + len(torch.fx.graph_module._loader.eval_cache)

    before = kept()
    for first, second in combinations(names, 2):
        engine.run(Batch(PIXELS[:1], (Plan(taps=(Tap(first), Tap(second)), layer=first),)))
    assert kept() == before


def test_numbers_that_are_none_are_a_fault_of_their_image_alone() -> None:
    net = Exploding()
    engine = TorchEngine(net, SPEC, torch.device("cpu"))
    for plan in (Plan(), Plan(layer="head"), Plan(taps=(Tap("head"),))):
        pixels = np.stack([PIXELS[0] // 2, np.full_like(PIXELS[0], 255), PIXELS[1] // 2])
        good, bad, also_good = engine.run(Batch(pixels, (plan,) * 3))
        assert good.fault == also_good.fault == ""
        assert "logits" in bad.fault
        assert ("heat map" in bad.fault) == (plan.layer is not None)
        assert ("feature maps" in bad.fault) == bool(plan.taps)


def test_plans_without_an_explanation_may_run_beside_a_deep_cut() -> None:
    engine = TorchEngine(network("tiny"), SPEC, torch.device("cpu"))
    plans = (Plan(), Plan(layer="block", targets=(1, 2, 3)), Plan(layer="block"))
    together = engine.run(Batch(PIXELS[:3], plans))
    for i, plan in enumerate(plans):
        assert_same(together[i], engine.run(Batch(PIXELS[i : i + 1], (plan,)))[0])
    assert together[1].explanations[0].heat.shape == traced("tiny").spec.by_name["block"].shape[1:]


def test_feature_maps_have_the_statistics_of_their_channels() -> None:
    engine = TorchEngine(network("tiny-relu"), SPEC, torch.device("cpu"))
    (outcome,) = engine.run(Batch(PIXELS[:1], (Plan(taps=(Tap("stem", count=8),)),)))
    (maps,) = outcome.maps
    assert sorted(maps.channels) == list(range(8))
    strength = np.abs(maps.values).mean((1, 2))
    assert (np.diff(strength) <= 0).all()  # strongest first
    np.testing.assert_allclose(maps.mean, maps.values.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(maps.max, maps.values.max((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(maps.zeros, (maps.values == 0).mean((1, 2)), rtol=1e-5)
    assert 0 < maps.zeros.max() < 1


def test_two_cuts_in_one_batch_are_a_mistake_of_the_caller(engine: TorchEngine) -> None:
    with pytest.raises(ValueError, match="the same passes"):
        engine.run(Batch(PIXELS[:2], (Plan(layer="stem"), Plan(layer="head"))))


class Viewing(nn.Module):
    """Asks for views that maps with channels last in memory don't have; ``hidden`` from the trace, or not."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.classifier, self.hidden = nn.Conv2d(3, 4, 3, 4, 1), nn.Linear(4 * 16 * 16, 5), hidden

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.hidden and x.sum() > 1e9:  # a question that no trace can answer
            return x
        x = self.conv(x.view(-1, 3, *SIZE))
        logits: torch.Tensor = self.classifier(x.view(x.size(0), -1))
        return logits


@pytest.mark.parametrize("hidden", [False, True])
def test_a_network_that_asks_for_views_is_served(hidden: bool) -> None:
    engine = TorchEngine(Viewing(hidden).eval(), SPEC, torch.device("cpu"))
    assert engine.network.default_layer == ("" if hidden else "conv")
    x = (torch.from_numpy(PIXELS[:3]).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        logits = Viewing(hidden)(x.permute(0, 3, 1, 2).contiguous())
    plan = Plan(top_k=5, layer=engine.network.default_layer or None)
    for outcome, row in zip(engine.run(Batch(PIXELS[:3], (plan,) * 3)), logits, strict=True):
        found = sorted((prediction.index, prediction.logit) for prediction in outcome.predictions)
        np.testing.assert_allclose([logit for _, logit in found], row, rtol=1e-4, atol=1e-5)
        assert len(outcome.explanations) == (not hidden)


def test_a_device_that_is_not_there_is_named() -> None:
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="there is no device cuda:99"):
        pick_device("cuda:99")


def test_a_reproducible_image_has_the_same_bits_alone_and_among_others() -> None:
    plan = Plan(top_k=5, gates=True, effects=True, layer="stem", targets=(1, 3), reproducible=True)
    engines = [TorchEngine(network("tiny"), SPEC, torch.device("cpu"), threads=threads) for threads in (1, 3)]
    found = [engine.run(Batch(PIXELS[i:], (plan,) * (len(PIXELS) - i)))[-1] for engine in engines for i in range(6)]
    assert len({outcome.explanations[0].heat.tobytes() for outcome in found}) == 1
    assert len({outcome.predictions for outcome in found}) == 1
    assert engines[0].lane(plan) != engines[0].lane(dataclasses.replace(plan, reproducible=False))
