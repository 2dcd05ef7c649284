"""The engine runs plans of one lane in one pass. No answer depends on the other plans, in any runtime."""

from __future__ import annotations

import dataclasses
import functools
import gc
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pellucid.engine import Engine
from pellucid.errors import InferenceFailed
from pellucid.explain.methods import METHODS, offered
from pellucid.network.file import CompiledNetwork, NetworkFileError
from pellucid.network.spec import SOFTMAX
from pellucid.runtime.base import Cores
from pellucid.runtime.openvino_runtime import OpenVINORuntime
from pellucid.runtime.torch_runtime import TorchHead, TorchRuntime
from pellucid.types import Batch, Contrast, Edit, InputPixels, MapSpec, Outcome, Pixels, Plan, Tap
from service.dispatch.worker import Worker
from tests.networks import PREPROCESS, SIZE, compiled, in_memory, network, of_any_size
from tests.support import present

CPU = torch.device("cpu")
PIXELS: Pixels = np.random.default_rng(0).integers(0, 256, (6, *SIZE, 3), np.uint8)
# Plans of the lane that most requests share.
USUAL = (
    Plan(top_k=3),
    Plan(gates=True),
    Plan(layer="head"),
    Plan(layer="head", targets=(2, 0), gates=True),
    Plan(taps=(Tap("head", channels=(5, 1)),)),
    Plan(top_k=5, gates=True, taps=(Tap("head"),), layer="head", targets=(4,)),
)
OTHERS = {
    "default maps": Plan(top_k=5, gates=True, taps=tuple(map(Tap, compiled("tiny").spec.feature_layers))),
    "another map": Plan(taps=(Tap("block"),)),
    "a gate's sides": Plan(taps=(Tap("gate", gate=True),)),
    "deep": Plan(layer="stem", targets=(1,)),
    "inside a block": Plan(layer="block"),
    "importance": Plan(gates=True, layer="stem", targets=(3, 1)),
    "effects": Plan(gates=True, effects=True),
    "restored": Plan(gates=True, restore=("gate",)),
    "contrast": Plan(layer="stem", targets=(1, 2), contrast=Contrast((0,))),
    "contrast of the top class": Plan(layer="stem", gates=True, effects=True, contrast=Contrast((0, 1), 0.5)),
    "a method of one gradient": Plan(targets=(1,), heat_maps=(MapSpec("layercam", ("block", "head"), "max"),)),
    "passes behind a layer": Plan(targets=(1,), heat_maps=(MapSpec("ablation-cam", ("gate",)),)),
    "passes of the network": Plan(targets=(1,), heat_maps=(MapSpec("score-cam", ("gate",)),)),
    "gradients at a layer": Plan(targets=(1, 2), heat_maps=(MapSpec("integrated-gradients", ("block",)),), samples=4),
    "gradients at the pixels": Plan(heat_maps=(MapSpec("smoothgrad", ("pixels",)),), samples=4),
    "random heads": Plan(layer="stem", targets=(1,), random_heads=2),
    "what if": Plan(layer="block", edit=Edit(((0, 0.5),), ranked=True)),
    "what if of the gate": Plan(layer="gate", gates=True, edit=Edit(((0, 0.5),), gate="gate", ranked=True)),
}


def by_torch(net: CompiledNetwork, threads: int = 1, **options: Any) -> Engine:
    return Engine(net, TorchRuntime(net, CPU, threads=threads, **options))


def by_openvino(net: CompiledNetwork, threads: int = 1, bf16: bool = False) -> Engine:
    return Engine(net, OpenVINORuntime(net, bf16=bf16, threads=threads))


MAKERS: list[Callable[..., Engine]] = [by_torch, by_openvino]


@functools.cache
def tiny_by(make: Callable[..., Engine]) -> Engine:
    return make(compiled("tiny"))


@pytest.fixture(params=MAKERS)
def engine(request: pytest.FixtureRequest) -> Engine:
    return tiny_by(request.param)


def leaves(value: Any) -> Iterator[Any]:
    """Every number, name and array of an outcome, except its timings."""
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
        if isinstance(mine, np.ndarray) and mine.dtype.kind == "i":
            assert sorted(mine) == sorted(yours)  # equal values can come in any order
        elif isinstance(mine, (float, np.ndarray)):
            np.testing.assert_allclose(mine, yours, rtol=1e-3, atol=2e-5)
        else:
            assert mine == yours


def alone(engine: Engine, plans: Sequence[Plan]) -> list[Outcome]:
    return [engine.run(Batch(PIXELS[i : i + 1], (plan,)))[0] for i, plan in enumerate(plans)]


def test_predictions_equal_the_networks_on_normalised_pixels(engine: Engine) -> None:
    x = (torch.from_numpy(PIXELS[:1]).float() / 255 - torch.tensor(PREPROCESS.mean)) / torch.tensor(PREPROCESS.std)
    with torch.no_grad():
        logits = network("tiny")(x.permute(0, 3, 1, 2))[0]
    (outcome,) = engine.run(Batch(PIXELS[:1], (Plan(top_k=5),)))
    order = logits.argsort(descending=True)
    assert [p.index for p in outcome.predictions] == order.tolist()
    np.testing.assert_allclose([p.logit for p in outcome.predictions], logits[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        [present(p.probability) for p in outcome.predictions], logits.softmax(0)[order], rtol=1e-4
    )


def test_a_mixed_batch_answers_each_plan_as_a_batch_of_one(engine: Engine) -> None:
    assert {engine.lane(plan) for plan in USUAL} == {""}
    for one, other in zip(engine.run(Batch(PIXELS, USUAL)), alone(engine, USUAL), strict=True):
        assert_same(one, other)


def test_an_outcome_holds_only_what_its_plan_requests(engine: Engine) -> None:
    predict, gates, top, several, maps, everything = engine.run(Batch(PIXELS, USUAL))
    assert (len(predict.predictions), predict.gates, predict.explanations, predict.maps) == (3, (), (), ())
    assert [gate.layer for gate in gates.gates] == ["gate"]
    assert gates.explanations == ()
    assert [e.target.index for e in top.explanations] == [top.predictions[0].index]
    assert [e.target.index for e in several.explanations] == [2, 0]
    assert [(m.layer, m.channels) for m in maps.maps] == [("head", (5, 1))]
    assert everything.gates
    assert everything.maps
    assert everything.explanations


@pytest.mark.parametrize("name", OTHERS)
def test_both_runtimes_give_the_same_answer_alone_and_in_a_batch(name: str) -> None:
    plan = OTHERS[name]
    torchs, openvinos = map(tiny_by, MAKERS)
    assert torchs.lane(plan) == openvinos.lane(plan)
    expected = alone(torchs, [plan] * 3)
    for engine in (torchs, openvinos):
        for one, other in zip(engine.run(Batch(PIXELS[:3], (plan,) * 3)), expected, strict=True):
            assert_same(one, other)
            assert one.fault == ""


def test_images_with_several_classes_share_a_batch_with_images_of_one_class(engine: Engine) -> None:
    """One pass computes one gradient for each class of an image."""
    plans = tuple(Plan(layer="block", gates=True, targets=targets) for targets in ((1, 2, 3), (), (4,), (0, 1)))
    for i, (together, plan) in enumerate(zip(engine.run(Batch(PIXELS[:4], plans)), plans, strict=True)):
        (whole,) = engine.run(Batch(PIXELS[i : i + 1], (plan,)))
        assert_same(together, whole)
        for explanation in together.explanations:
            single = replace(plan, targets=(explanation.target.index,))
            (found,) = engine.run(Batch(PIXELS[i : i + 1], (single,)))
            assert_same(replace(found, importance=together.importance), replace(together, explanations=(explanation,)))


def test_a_network_whose_gradients_do_not_broadcast_repeats_the_image(engine: Engine) -> None:
    net = compiled("tiny")
    repeating = CompiledNetwork(net.manifest.model_copy(update={"broadcasts": False}), net.graph, net.weights)
    for name in ("importance", "contrast", "gradients at a layer", "random heads"):
        plan = replace(OTHERS[name], targets=(3, 1))
        batch = Batch(PIXELS[:2], (plan, plan))
        for one, other in zip(by_torch(repeating).run(batch), engine.run(batch), strict=True):
            assert_same(one, other)


def assert_callers_get_their_answers(engine: Engine, max_batch: int = 4) -> None:
    """Eight concurrent callers of a worker get the same answers as a batch of one."""
    solo = alone(engine, USUAL)
    worker = Worker(engine, max_batch)
    failures: list[BaseException] = []

    def caller(seed: int) -> None:
        try:
            for i in np.random.default_rng(seed).permutation(len(USUAL)).tolist() * 3:
                future = worker.submit(PIXELS[i], USUAL[i], time.monotonic() + 3600)
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


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("threads", "max_batch"), [(1, 4), (2, 4), (2, 1)]
)  # with max_batch 1, every batch is full and one is queued
def test_batches_of_eight_callers_equal_batches_of_one(make: Any, threads: int, max_batch: int) -> None:
    engine = make(compiled("tiny"), threads)
    assert engine.slots == threads
    assert engine.queues(engine.lane(Plan())) == (make is by_openvino)
    assert not engine.queues(engine.lane(OTHERS["deep"]))
    assert_callers_get_their_answers(engine, max_batch)


def test_the_next_batch_does_not_overwrite_an_outcome(engine: Engine) -> None:
    plan = replace(OTHERS["default maps"], layer="head")
    (first,) = engine.run(Batch(PIXELS[:1], (plan,)))
    kept = [leaf.copy() for leaf in leaves(first) if isinstance(leaf, np.ndarray)]
    engine.run(Batch(PIXELS[1:2], (plan,)))
    assert len(kept) > 10
    for before, after in zip(kept, (leaf for leaf in leaves(first) if isinstance(leaf, np.ndarray)), strict=True):
        np.testing.assert_array_equal(before, after)


# -- lanes


def test_plans_share_a_lane_only_if_they_need_the_same_outputs(engine: Engine) -> None:
    lanes = {name: engine.lane(plan) for name, plan in OTHERS.items()}
    assert lanes["default maps"] == "maps"
    assert engine.lane(Plan(layer="stem")) == engine.lane(Plan(layer="stem.2")) != ""  # two names of one value
    assert lanes.pop("importance") == engine.lane(Plan(layer="stem", gates=True, targets=(1, 2)))
    assert len({"", *lanes.values()}) == 1 + len(lanes)
    assert engine.lane(Plan(layer="head", targets=(0, 1, 2))) == ""  # closed form: no gradient pass


def test_plans_with_many_targets_have_other_lanes_than_plans_with_few(engine: Engine) -> None:
    lanes = [engine.lane(Plan(layer="stem", targets=tuple(range(count)))) for count in range(6)]
    one, same, two, three, four, five = lanes
    assert one == same
    assert three == four
    assert len({one, two, three, five}) == 4


def plan_of(*names: str, layer: str) -> Plan:
    return Plan(targets=(3, 1), heat_maps=tuple(MapSpec(name, (layer,)) for name in names), samples=4)


def test_methods_that_share_a_gradient_share_a_lane(engine: Engine) -> None:
    names = [name for name, method in METHODS.items() if method.spec.needs == "gradient"]
    assert engine.lane(plan_of(*names, layer="stem")) == engine.lane(Plan(layer="stem", targets=(3, 1)))


def test_a_method_with_extra_passes_has_its_own_lane(engine: Engine) -> None:
    specs = offered(engine.network, SOFTMAX)
    for spec in specs:
        assert (engine.lane(plan_of(spec.name, layer="head")) == "") == (
            spec.needs == "gradient"
        )  # closed form: no gradient pass
    lanes = {engine.lane(plan_of(spec.name, layer="head")) for spec in specs}
    assert len(lanes) == 1 + sum(spec.needs != "gradient" for spec in specs)
    plain, edited = Plan(layer="head"), Plan(layer="head", edit=Edit(((0, 0.0),)))
    assert engine.lane(plain) != engine.lane(edited) != engine.lane(Plan(layer="head", edit=Edit(ranked=True)))


def test_a_batch_with_plans_of_two_lanes_is_refused(engine: Engine) -> None:
    with pytest.raises(ValueError, match="the plans of one batch must need the same outputs"):
        engine.run(Batch(PIXELS[:2], (Plan(layer="stem"), Plan(layer="head"))))


def test_usual_plans_have_the_same_bits_whatever_else_is_requested() -> None:
    """Also in bfloat16, where two models of one network differ, because one model answers all these plans."""
    engine = by_openvino(compiled("tiny"), bf16=True)
    whole = engine.run(Batch(PIXELS[:1], (Plan(top_k=5, gates=True, layer="head", targets=(1,)),)))[0]
    for plan in (
        Plan(top_k=5),
        Plan(top_k=5, gates=True),
        Plan(top_k=5, layer="head", targets=(1,), taps=(Tap("head"),)),
    ):
        (found,) = engine.run(Batch(PIXELS[:1], (plan,)))
        assert found.predictions == whole.predictions
        for gate, same in zip(found.gates, whole.gates, strict=False):
            np.testing.assert_array_equal(gate.weights, same.weights)
        for one, other in zip(found.explanations, whole.explanations, strict=False):
            np.testing.assert_array_equal(one.heat, other.heat)


# -- cores and preparation


class Noted(TorchRuntime):
    """Records the cores and the number of images of each pass."""

    def __init__(self, net: CompiledNetwork, threads: int) -> None:
        super().__init__(net, CPU, threads=threads)
        self.passes: list[tuple[Cores, int]] = []
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def run(self, images: InputPixels, wanted: Any, outputs: Sequence[str], cores: Cores) -> Any:
        self.passes.append((cores, len(images)))
        self.inside.set()
        assert self.go_on.wait(60)
        return super().run(images, wanted, outputs, cores)


def test_a_single_image_gets_all_cores_and_a_batch_its_share() -> None:
    runtime = Noted(compiled("tiny"), 2)
    engine = Engine(compiled("tiny"), runtime)
    engine.run(Batch(PIXELS[:1], (Plan(),)))
    engine.run(Batch(PIXELS[:2], (Plan(), Plan())))
    runtime.go_on.clear()
    runtime.inside.clear()
    first = threading.Thread(target=engine.run, args=(Batch(PIXELS[:1], (Plan(),)),))
    first.start()
    assert runtime.inside.wait(60)
    beside = threading.Thread(target=engine.run, args=(Batch(PIXELS[:1], (Plan(),)),))
    beside.start()
    while len(runtime.passes) < 4:
        time.sleep(0.001)
    runtime.go_on.set()
    first.join()
    beside.join()
    engine.run(Batch(PIXELS[:1], (Plan(),)))
    assert runtime.passes == [("whole", 1), ("shared", 2), ("whole", 1), ("shared", 1), ("whole", 1)]
    single = Noted(compiled("tiny"), 1)
    Engine(compiled("tiny"), single).run(Batch(PIXELS[:2], (Plan(), Plan())))
    assert single.passes == [("whole", 2)]  # one slot: no other pass can run


def test_reproducible_images_run_one_by_one_on_one_thread() -> None:
    runtime = Noted(compiled("tiny"), 2)
    plan = replace(OTHERS["importance"], reproducible=True)
    Engine(compiled("tiny"), runtime).run(Batch(PIXELS[:3], (plan,) * 3))
    assert runtime.passes == [("exact", 1)] * 3


@pytest.mark.parametrize("make", MAKERS)
def test_a_reproducible_image_has_the_same_bits_in_any_batch(make: Any) -> None:
    plan = Plan(top_k=5, gates=True, effects=True, layer="stem", targets=(1, 3), random_heads=1, reproducible=True)
    engines = [make(compiled("tiny"), threads) for threads in (1, 3)]
    found = [engine.run(Batch(PIXELS[i:], (plan,) * (6 - i)))[-1] for engine in engines for i in (0, 3, 5)]
    answers = {
        b"".join(np.asarray(leaf).tobytes() for leaf in leaves(outcome) if isinstance(leaf, (float, np.ndarray)))
        for outcome in found
    }
    assert len(answers) == 1
    assert engines[0].lane(plan) != engines[0].lane(replace(plan, reproducible=False))
    usual = engines[0].run(Batch(PIXELS[5:], (replace(plan, reproducible=False),)))[0]
    assert_same(usual, found[0])


def test_a_plan_can_be_prepared() -> None:
    engine = by_openvino(compiled("tiny"), threads=2)
    for plan in (Plan(), OTHERS["deep"], OTHERS["another map"]):
        assert not engine.ready(plan)
        engine.prepare(plan, keep=plan == Plan())
        assert engine.ready(plan)
        engine.prepare(plan, alone=True)
    for pair in [*itertools.combinations(engine.network.layers, 2)][:20]:  # more models than the cache holds
        engine.prepare(Plan(taps=tuple(Tap(layer.name) for layer in pair)))
    assert engine.ready(Plan(gates=True))
    assert not engine.ready(OTHERS["deep"])
    assert by_torch(compiled("tiny")).ready(OTHERS["deep"])


def test_random_heads_of_many_plans_are_not_all_kept() -> None:
    engine = by_torch(compiled("tiny"))
    for layer in ("stem", "block", "gate"):
        for target in range(4):
            plan = Plan(layer=layer, targets=(target,), random_heads=5)
            assert engine.ready(plan)
            engine.run(Batch(PIXELS[:1], (plan,)))
    del plan
    gc.collect()
    heads = [each for each in gc.get_objects() if type(each) is TorchHead and each._runtime is engine._runtime]
    assert len(heads) <= 16 + 3  # and one of each layer, which share their weights


def test_more_random_heads_than_a_runtime_keeps_are_compiled_when_they_run() -> None:
    engine = by_openvino(compiled("tiny"), threads=2)
    heat_maps = tuple(MapSpec("grad-cam", (layer,)) for layer in ("stem", "block", "gate"))
    plan = Plan(targets=(1,), heat_maps=heat_maps, random_heads=5)
    engine.prepare(plan)
    assert engine.ready(plan)  # otherwise every request would compile all of them, and each would evict another
    fewer = replace(plan, heat_maps=heat_maps[:2])
    engine.prepare(fewer)
    engine.run(Batch(PIXELS[:1], (fewer,)))
    assert engine.ready(fewer)  # the runtime keeps as many as the engine prepares


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("reproducible", [False, True])
def test_a_prepared_plan_compiles_nothing_when_it_runs(
    monkeypatch: pytest.MonkeyPatch, name: str, reproducible: bool
) -> None:
    plan = replace(OTHERS[name], reproducible=reproducible)
    engine = by_openvino(compiled("tiny"), threads=2)
    engine.prepare(plan)
    engine.prepare(plan, alone=True)
    assert engine.ready(plan)
    monkeypatch.setattr(OpenVINORuntime, "compile", lambda *_, **__: pytest.fail("a model is compiled in a slot"))
    (outcome,) = engine.run(Batch(PIXELS[:1], (plan,)))
    assert not outcome.fault


def test_an_abandoned_image_is_given_up_and_the_others_are_answered(engine: Engine) -> None:
    for name in ("passes behind a layer", "gradients at a layer", "random heads", "what if", "restored"):
        plan = OTHERS[name]
        gone, stays = engine.run(Batch(PIXELS[:2], (plan, plan), (lambda: True, lambda: False)))
        assert gone.given_up
        assert_same(stays, engine.run(Batch(PIXELS[1:2], (plan,)))[0])


# -- NaN, and networks that don't match their description


class Exploding(nn.Module):
    """Overflows for a white picture."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.classifier = nn.Conv2d(3, 5, 3), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.head(x * torch.where(x >= 0.9, math.inf, 1.0).amin((1, 2, 3), keepdim=True))
        logits: Tensor = self.classifier(features.mean((2, 3)))
        return logits


def test_nan_is_a_fault_of_its_image_only() -> None:
    engine = by_torch(in_memory(Exploding()))
    for plan in (Plan(), Plan(layer="head"), Plan(taps=(Tap("head"),))):
        pixels = np.stack([PIXELS[0] // 2, np.full_like(PIXELS[0], 255), PIXELS[1] // 2])
        good, bad, also_good = engine.run(Batch(pixels, (plan,) * 3))
        assert good.fault == also_good.fault == ""
        assert "logits" in bad.fault
        assert ("heat map" in bad.fault) == (plan.layer is not None)
        assert ("feature maps" in bad.fault) == bool(plan.taps)


def test_a_network_with_more_logits_than_labels_is_refused() -> None:
    net = compiled("tiny")
    model = replace(net.model, labels=("a", "b"), output=SOFTMAX)
    manifest = net.manifest.model_copy(update={"model": model})
    with pytest.raises(NetworkFileError, match="TinyNet has 5 logits per image, but describes 2"):
        by_torch(CompiledNetwork(manifest, net.graph, net.weights)).run(Batch(PIXELS[:1], (Plan(),)))


def test_feature_maps_have_their_channels_statistics() -> None:
    (outcome,) = by_torch(compiled("tiny-relu")).run(Batch(PIXELS[:1], (Plan(taps=(Tap("stem", count=8),)),)))
    (maps,) = outcome.maps
    assert sorted(maps.channels) == list(range(8))
    strength = np.abs(maps.values).mean((1, 2))
    assert (np.diff(strength) <= 0).all()  # strongest first
    np.testing.assert_allclose(maps.mean, maps.values.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(maps.max, maps.values.max((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(maps.zeros, (maps.values == 0).mean((1, 2)), rtol=1e-5)
    assert 0 < maps.zeros.max() < 1


# -- other sizes


WIDE = (64, 96)
OF_WIDE: Pixels = np.random.default_rng(1).integers(0, 256, (5, *WIDE, 3), np.uint8)


def assert_alike(one: Outcome, other: Outcome, rtol: float) -> None:
    """The numbers of two outcomes are the same, but for their rounding."""
    for first, second in zip(one.predictions, other.predictions, strict=True):
        assert first.index == second.index
        assert first.logit == pytest.approx(second.logit, rel=rtol)
    for explanation, twin in zip(one.explanations, other.explanations, strict=True):
        scale = np.abs(twin.heat).max()
        np.testing.assert_allclose(explanation.heat, twin.heat, rtol=rtol, atol=rtol * scale)
    for gate, same in zip(one.gates, other.gates, strict=True):
        np.testing.assert_allclose(gate.weights, same.weights, rtol=rtol)
    for found, maps in zip(one.maps, other.maps, strict=True):
        np.testing.assert_allclose(found.values, maps.values, rtol=rtol, atol=rtol * np.abs(maps.values).max())
    if one.what_if and other.what_if:
        for before, after in zip(one.what_if.targets[0], other.what_if.targets[0], strict=True):
            np.testing.assert_allclose(before.heat, after.heat, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("plan", [*USUAL, *OTHERS.values()], ids=str)
def test_a_plan_of_another_size_is_that_of_the_network_compiled_at_it(make: Callable[..., Engine], plan: Plan) -> None:
    (found,) = sized_by(make).run(Batch(OF_WIDE[:1], (replace(plan, size=WIDE),)))
    (expected,) = wide_by(make).run(Batch(OF_WIDE[:1], (plan,)))
    assert_alike(found, expected, 2e-4)


@functools.cache
def wide_by(make: Callable[..., Engine]) -> Engine:
    return make(in_memory(network("tiny"), replace(PREPROCESS, size=WIDE)))


@functools.cache
def sized_by(make: Callable[..., Engine]) -> Engine:
    return make(of_any_size("tiny"))


@pytest.mark.parametrize("make", MAKERS)
def test_an_answer_of_another_size_does_not_depend_on_its_neighbours(make: Callable[..., Engine]) -> None:
    engine, plans = sized_by(make), tuple(replace(plan, size=WIDE) for plan in USUAL[:5])
    assert len({engine.lane(plan) for plan in plans}) == 1
    together = engine.run(Batch(OF_WIDE, plans))
    for number, plan in enumerate(plans):
        (alone,) = engine.run(Batch(OF_WIDE[number : number + 1], (plan,)))
        assert [each.index for each in alone.predictions] == [each.index for each in together[number].predictions]
        assert_alike(alone, together[number], 1e-5)


@pytest.mark.parametrize("make", MAKERS)
def test_sizes_have_lanes_of_their_own(make: Callable[..., Engine]) -> None:
    engine, plan = sized_by(make), Plan(layer="head")
    lanes = [engine.lane(replace(plan, size=size)) for size in (None, SIZE, WIDE, (96, 64))]
    assert lanes[0] == lanes[1]
    assert len({*lanes}) == 3
    assert [engine.queues(lane) for lane in lanes] == [engine.queues(lanes[0])] * 4
    assert lanes[2].endswith("@64x96 x1.500")


def test_a_new_size_is_ready_once_it_is_prepared() -> None:
    engine, plan = by_openvino(of_any_size("tiny")), Plan(layer="head", size=WIDE)
    assert not engine.ready(plan)
    engine.prepare(plan)
    assert engine.ready(plan)
    assert not engine.ready(replace(plan, layer="stem"))
    assert not engine.ready(replace(plan, size=(96, 64)))


def test_the_torch_runtime_shares_the_weights_of_all_sizes() -> None:
    engine = by_torch(of_any_size("tiny"))
    engine.run(Batch(PIXELS[:1], (Plan(layer="stem"),)))
    engine.run(Batch(OF_WIDE[:1], (Plan(layer="stem", size=WIDE),)))
    runtimes = [each._runtime for each in (engine, engine._of(Plan(size=WIDE)))]
    own, other = (runtime._constants for runtime in runtimes if isinstance(runtime, TorchRuntime))
    assert own.keys() & other.keys() >= {("weight:stem.0.weight", False)}
    assert all(own[key] is other[key] for key in own.keys() & other.keys())


def test_a_size_that_the_network_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="TinyNet can't run on pixels of 64x96"):
        by_torch(compiled("tiny")).run(Batch(OF_WIDE[:1], (Plan(size=WIDE),)))


def test_large_images_run_in_parts_of_bounded_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sizes = by_openvino(of_any_size("tiny")), list[int]()
    size = (128, 96)
    run = OpenVINORuntime.run

    def counted(self: OpenVINORuntime, images: Pixels, *rest: Any) -> Any:
        sizes.append(len(images))
        return run(self, images, *rest)

    monkeypatch.setattr(OpenVINORuntime, "run", counted)
    pixels = np.zeros((3, *size, 3), np.uint8)
    assert len(engine.run(Batch(pixels, (Plan(size=size),) * 3))) == 3
    assert sizes == [1, 1, 1]
    engine.run(Batch(OF_WIDE[:3], (Plan(size=WIDE),) * 3))
    assert sizes[3:] == [2, 1]


def test_the_worker_survives_a_graph_for_any_size_that_fails() -> None:
    broken = replace(of_any_size("tiny"), scaled=b"[]")
    worker = Worker(by_openvino(broken), 4)
    worker.start()
    try:
        with pytest.raises(InferenceFailed):
            worker.submit(OF_WIDE[0], Plan(size=WIDE), time.monotonic() + 60).result(60)
        assert worker.submit(PIXELS[0], Plan(), time.monotonic() + 60).result(60).outcome.predictions
        assert worker.well
    finally:
        worker.stop()
