"""OpenVINO compiles one model for each set of outputs, and caches some in memory and some on disk."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from pellucid.decode.image import decode
from pellucid.engine import Engine
from pellucid.network.file import load
from pellucid.network.graph import INPUT, Graph, Node, Ref
from pellucid.runtime import aten_to_openvino, openvino_runtime
from pellucid.runtime.openvino_runtime import OpenVINORuntime
from pellucid.types import Batch, Plan, Upload
from tests.networks import TinyNet, compiled, in_memory
from tests.runtime.test_runtimes import PICTURES, one_hot
from tests.support import SAMPLES, photograph, resident
from tests.support import compiled as of_catalogue


def test_an_unsupported_operation_is_named() -> None:
    strange = Node("x", "aten.from_file.default", (Ref("pixels"),), {})
    assert not aten_to_openvino.supports(strange)
    part = Graph([Node("pixels", INPUT, (), {}), strange]).part(("pixels",), ("x",))
    with pytest.raises(aten_to_openvino.UnsupportedError, match=r"^aten\.from_file\.default$"):
        aten_to_openvino.build(part, {"pixels": ov.opset15.parameter([1]).output(0)}, {})


def test_models_are_compiled_on_demand_and_evicted_unless_pinned() -> None:
    found = compiled("tiny")
    runtime, logits = OpenVINORuntime(found, bf16=False, threads=1), found.manifest.logits
    runtime.prepare([logits], "shared", keep=True)
    nodes = sorted({value.node for value in found.manifest.values.values()})
    sets = [[logits, *pair] for pair in combinations(nodes, 2)][:20]
    for outputs in sets:
        assert not runtime.ready(outputs, "shared")
        runtime.run(PICTURES[:1], None, outputs, "shared")
        assert runtime.ready(outputs[::-1], "shared")  # in any order
    ready = [runtime.ready(outputs, "shared") for outputs in sets]
    assert ready == [False] * (len(sets) - 12) + [True] * 12
    assert runtime.ready([logits], "shared")
    runtime.run(PICTURES[:1], None, sets[0], "shared")  # an evicted model is compiled again
    assert runtime.ready(sets[0], "shared")


def test_a_model_that_is_not_used_for_a_while_frees_its_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_runtime, "_IDLE_S", -1)  # at once
    found = compiled("tiny")
    runtime, logits = OpenVINORuntime(found, bf16=False, threads=1), found.manifest.logits
    many = np.repeat(PICTURES[:1], 4096, axis=0)
    before = runtime.run(many, None, [logits], "shared")[0][logits].copy()
    held = resident()
    freed: list[openvino_runtime.Model] = []
    with monkeypatch.context() as patched:
        patched.setattr(openvino_runtime.Model, "free_if_idle", freed.append)
        runtime.run(many[:1], None, [logits], "shared")
    assert not freed  # a pass keeps those that it needs
    runtime.run(many[:1], None, [found.manifest.values["stem"].node], "shared")
    assert resident() < held - 2**24
    np.testing.assert_array_equal(runtime.run(many, None, [logits], "shared")[0][logits], before)


def test_a_model_prepared_for_whole_passes_is_ready_for_shared_ones() -> None:
    found = compiled("tiny")
    runtime, logits = OpenVINORuntime(found, bf16=False, threads=2), found.manifest.logits
    assert not runtime.ready([logits], "shared")
    runtime.prepare([logits], "shared")
    assert runtime.ready([logits], "shared")
    shared = runtime.run(PICTURES[:1], None, [logits], "whole")[0][logits].copy()  # by the compiled model
    runtime.prepare([logits], "whole")
    np.testing.assert_allclose(runtime.run(PICTURES[:1], None, [logits], "whole")[0][logits], shared, atol=1e-6)


@pytest.mark.parametrize(("threads", "slots"), [(1, 1), (2, 2), (4, 2), (4, 1)])
def test_each_kind_of_pass_uses_its_share_of_the_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int, slots: int
) -> None:
    found = compiled("tiny")
    runtime = OpenVINORuntime(found, bf16=False, threads=threads, slots=slots)
    start, passes = ov.InferRequest.start_async, []

    def noted(request: ov.InferRequest) -> None:
        chosen = request.get_compiled_model()
        passes.append(chosen.get_property("INFERENCE_NUM_THREADS") / chosen.get_property("NUM_STREAMS"))
        start(request)

    monkeypatch.setattr(ov.InferRequest, "start_async", noted)
    for cores in ("whole", "shared", "exact"):
        runtime.prepare([found.manifest.logits], cores)
        runtime.run(PICTURES[:1], None, [found.manifest.logits], cores)
    most = min(threads, len(os.sched_getaffinity(0)))  # OpenVINO starts at most one per core
    assert passes == [most, most / slots, 1]


def test_pinned_models_are_cached_on_disk_for_the_same_network_only(tmp_path: Path) -> None:
    def blobs(net: TinyNet | None, keep: bool = True) -> int:
        found = compiled("tiny") if net is None else in_memory(net)
        runtime = OpenVINORuntime(found, bf16=False, threads=1, cache=tmp_path / "cache")
        outputs = [found.manifest.logits, found.value("stem").gradient or ""]
        runtime.prepare(outputs, "shared", keep)
        runtime.run(PICTURES[:1], one_hot(1), outputs, "shared")
        return len([*tmp_path.rglob("*.blob")])

    assert blobs(None, keep=False) == 0  # models of arbitrary sets of outputs would fill the disk
    once = blobs(None)
    assert once > 0
    assert blobs(None) == once
    assert blobs(TinyNet()) == 2 * once


def test_an_unwritable_cache_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    found = compiled("tiny")
    runtime = OpenVINORuntime(found, bf16=False, threads=1, cache=tmp_path / "file" / "cache")
    assert "compiled models are not cached" in caplog.text
    assert runtime.run(PICTURES[:1], None, [found.manifest.logits], "shared")[0]


def test_bf16_agrees_with_fp32_on_the_sample_photographs() -> None:
    found = load(of_catalogue("lite0"))
    uploads = [Upload(photograph(path.stem)) for path in SAMPLES.glob("*.jpg")]
    pixels = np.stack([decode(upload, found.model.preprocess, 10**8).pixels for upload in uploads])
    for layer in ("head", "blocks.15"):
        batch = Batch(pixels, (Plan(layer=layer, gates=True),) * len(pixels))
        exact, coarse = (
            Engine(found, OpenVINORuntime(found, bf16=bf16, threads=1)).run(batch) for bf16 in (False, True)
        )
        for one, other in zip(exact, coarse, strict=True):
            assert one.predictions[0].index == other.predictions[0].index
            a, b = (np.maximum(outcome.explanations[0].heat, 0).ravel() for outcome in (one, other))
            assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.99
