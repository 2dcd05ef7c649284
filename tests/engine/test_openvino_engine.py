"""OpenVINO answers what torch answers; what it does not compile, torch runs, in a lane of its own."""

from __future__ import annotations

import dataclasses
import errno
import tempfile
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch

from models import catalog
from pellucid.decode.image import decode
from pellucid.types import Batch, Floats, Outcome, Plan, Tap, Upload
from service.engine.openvino_engine import OpenVINOEngine
from service.engine.torch_engine import TorchEngine
from tests.engine.test_torch_engine import PIXELS, SPEC, assert_callers_get_their_own, assert_same
from tests.networks import network
from tests.support import SAMPLES, photograph

USUAL = (Plan(top_k=3), Plan(gates=True), Plan(layer="head", targets=(2, 0)), Plan(layer="head", gates=True))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("openvino")


@pytest.fixture(scope="module")
def engine(cache: Path) -> OpenVINOEngine:
    return OpenVINOEngine(network("tiny"), SPEC, bf16=False, threads=1, cache=cache)


@pytest.fixture(scope="module")
def reference() -> TorchEngine:
    return TorchEngine(network("tiny"), SPEC, torch.device("cpu"))


def test_usual_plans_are_answered_as_torch_answers_them(engine: OpenVINOEngine, reference: TorchEngine) -> None:
    batch = Batch(PIXELS[: len(USUAL)], USUAL)
    for one, other in zip(engine.run(batch), reference.run(batch), strict=True):
        assert_same(one, other)


def test_a_picture_may_lie_in_memory_in_any_order(engine: OpenVINOEngine) -> None:
    turned = np.asfortranarray(PIXELS[:2])
    for one, other in zip(*(engine.run(Batch(each, USUAL[:2])) for each in (PIXELS[:2], turned)), strict=True):
        assert_same(one, other)


OTHERS = {
    "default layers": Plan(taps=(Tap("gate"), Tap("head"))),
    "other layer": Plan(taps=(Tap("block"),)),
    "gate": Plan(taps=(Tap("gate", gate=True),)),
    "deep cut": Plan(layer="stem", targets=(1,)),
    "effects": Plan(gates=True, effects=True),
    "restore": Plan(gates=True, restore=("gate",)),
}


@pytest.mark.parametrize("plan", OTHERS.values(), ids=OTHERS)
def test_every_other_plan_is_answered_too(engine: OpenVINOEngine, reference: TorchEngine, plan: Plan) -> None:
    batch = Batch(PIXELS[:2], (plan, plan))
    for one, other in zip(engine.run(batch), reference.run(batch), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "default layers"])
def test_what_a_picture_shows_is_the_same_whatever_is_asked_for_beside_it(cache: Path, name: str) -> None:
    coarse = OpenVINOEngine(network("tiny"), SPEC, bf16=True, threads=1, cache=cache)
    asked = dataclasses.replace(OTHERS[name], top_k=5, gates=True)
    for one, other in zip(
        coarse.run(Batch(PIXELS[:2], (Plan(top_k=5, gates=True),) * 2)),
        coarse.run(Batch(PIXELS[:2], (asked, asked))),
        strict=True,
    ):
        assert one.predictions == other.predictions
        for gate, same in zip(one.gates, other.gates, strict=True):
            np.testing.assert_array_equal(gate.weights, same.weights)


def test_a_cache_that_can_not_be_written_is_done_without(tmp_path: Path, reference: TorchEngine) -> None:
    (tmp_path / "file").touch()
    engine = OpenVINOEngine(network("tiny"), SPEC, bf16=False, threads=1, cache=tmp_path / "file" / "cache")
    batch = Batch(PIXELS[:1], USUAL[:1])
    assert_same(engine.run(batch)[0], reference.run(batch)[0])


def test_what_an_image_was_built_with_is_read_from_a_folder_that_is_never_written(
    tmp_path: Path, reference: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def engine() -> OpenVINOEngine:
        return OpenVINOEngine(network("tiny"), SPEC, bf16=False, threads=1, cache=tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    engine()
    for blob in tmp_path.glob("*.blob"):  # of this processor, so no image has it
        blob.unlink()
    before = files()
    for writer in ("TemporaryFile", "TemporaryDirectory"):
        monkeypatch.setattr(tempfile, writer, refuse)
    monkeypatch.setattr(ov, "convert_model", refuse)
    batch = Batch(PIXELS[:1], USUAL[:1])
    assert_same(engine().run(batch)[0], reference.run(batch)[0])
    assert files() == before


def test_plans_share_a_lane_only_if_one_graph_answers_them(engine: OpenVINOEngine) -> None:
    assert {engine.lane(plan) for plan in USUAL} == {""}
    maps = engine.lane(Plan(taps=tuple(map(Tap, engine.network.feature_layers))))
    other = engine.lane(Plan(taps=(Tap("block"),)))
    assert len({"", maps, other, engine.lane(Plan(layer="stem"))}) == 4


def test_an_outcome_is_not_overwritten_by_the_next_batch(engine: OpenVINOEngine) -> None:
    plan = Plan(gates=True, layer="head", taps=(Tap("gate"),))

    def arrays(outcome: Outcome) -> list[Floats]:
        return [outcome.gates[0].weights, outcome.explanations[0].heat, outcome.maps[0].values]

    (first,) = engine.run(Batch(PIXELS[:1], (plan,)))
    kept = [array.copy() for array in arrays(first)]
    engine.run(Batch(PIXELS[1:2], (plan,)))
    for before, after in zip(kept, arrays(first), strict=True):
        np.testing.assert_array_equal(before, after)


def test_batches_side_by_side_do_not_write_into_each_others_answers(cache: Path) -> None:
    engine = OpenVINOEngine(network("tiny"), SPEC, bf16=False, threads=2, cache=cache)
    assert engine.slots == 2
    assert_callers_get_their_own(engine)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_that_waits_in_the_engine_writes_into_no_other_answers(cache: Path, threads: int) -> None:
    engine = OpenVINOEngine(network("tiny"), SPEC, bf16=False, threads=threads, cache=cache)
    assert engine.queues(engine.lane(Plan()))
    assert not engine.queues(engine.lane(OTHERS["deep cut"]))
    assert_callers_get_their_own(engine, max_batch=1)  # every batch is full, so one is always ahead


def test_the_cache_is_used_by_the_same_network_and_by_no_other(cache: Path, engine: OpenVINOEngine) -> None:
    folders = {path.parent.name for path in cache.rglob("model.xml")}
    assert len(folders) == 2
    OpenVINOEngine(network("tiny"), SPEC, bf16=False, threads=1, cache=cache)
    assert {path.parent.name for path in cache.rglob("model.xml")} == folders
    changed = type(network("tiny"))().eval()
    OpenVINOEngine(changed, SPEC, bf16=False, threads=1, cache=cache)
    assert len({path.parent.name for path in cache.rglob("model.xml")}) == 4


def test_bf16_sees_the_same_in_the_sample_photographs_as_fp32(cache: Path) -> None:
    net, spec = catalog.load("lite0")
    uploads = [Upload(photograph(path.stem)) for path in SAMPLES.glob("*.jpg")]
    images = np.stack([decode(upload, spec.preprocess, 10**8).pixels for upload in uploads])
    batch = Batch(images, (Plan(layer="head", gates=True),) * len(images))
    exact, coarse = (OpenVINOEngine(net, spec, bf16=bf16, threads=1, cache=cache).run(batch) for bf16 in (False, True))
    for one, other in zip(exact, coarse, strict=True):
        assert one.predictions[0].index == other.predictions[0].index
        a, b = (np.maximum(outcome.explanations[0].heat, 0).ravel() for outcome in (one, other))
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.99


@pytest.mark.parametrize(("threads", "slots"), [(1, 1), (2, 2), (4, 2), (4, 1)])
def test_a_reproducible_image_is_computed_by_one_thread(
    cache: Path, monkeypatch: pytest.MonkeyPatch, threads: int, slots: int
) -> None:
    engine = OpenVINOEngine(network("tiny"), SPEC, bf16=False, threads=threads, cache=cache, slots=slots)
    plan = Plan(top_k=5, gates=True, layer="head", reproducible=True)
    start, passes = ov.InferRequest.start_async, []

    def noted(request: ov.InferRequest) -> None:
        chosen = request.get_compiled_model()
        passes.append(chosen.get_property("INFERENCE_NUM_THREADS") / chosen.get_property("NUM_STREAMS"))
        start(request)

    monkeypatch.setattr(ov.InferRequest, "start_async", noted)
    found = engine.run(Batch(PIXELS[:2], (plan, plan)))
    assert passes == [1, 1]  # each image is a batch of its own
    assert_same(found[1], engine.run(Batch(PIXELS[1:2], (dataclasses.replace(plan, reproducible=False),)))[0])


def test_an_engine_of_one_thread_computes_reproducibly_too(engine: OpenVINOEngine) -> None:
    assert engine.slots == 1
    (found,) = engine.run(Batch(PIXELS[:1], (Plan(top_k=3, reproducible=True),)))
    (usual,) = engine.run(Batch(PIXELS[:1], (Plan(top_k=3),)))
    assert [each.index for each in found.predictions] == [each.index for each in usual.predictions]
