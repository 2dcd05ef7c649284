"""Convolutions in int8: under both runtimes and at other sizes. Gradients are those of the float network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import pellucid
from pellucid.compiler.compiling import CompileError, compile
from pellucid.network.file import CompiledNetwork, load
from pellucid.runtime import choose
from pellucid.runtime.openvino_runtime import OpenVINORuntime
from tests.networks import SIZE, network
from tests.support import encoded

ENGINES = ("openvino", "torch")
Pair = tuple[CompiledNetwork, CompiledNetwork]


def pixels(count: int, size: tuple[int, int] = SIZE) -> Any:
    """Seeded waves of colour as bytes ``[count, H, W, 3]``."""
    rows, columns = (axis[..., None] for axis in np.mgrid[: size[0], : size[1]])
    down, across = np.random.default_rng(0).uniform(0.05, 0.5, (2, count, 1, 1, 3))
    return (127.5 + 127.5 * np.sin(down * rows + across * columns)).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures among many more files that are none."""
    found = tmp_path_factory.mktemp("pictures")
    for number in range(700):
        (found / f"{number}.txt").write_text("Waves.")
    for number, picture in enumerate(pixels(12)):
        (found / f"{number}.png").write_bytes(encoded(picture))
    return found


def made(net: nn.Module, out: Path, int8: Path | None = None) -> CompiledNetwork:
    compile(net, out, labels=list("abcde"), output="softmax", size=SIZE, int8=int8, progress=False)
    return load(out)


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One network without and with int8, each read from its file."""
    out = tmp_path_factory.mktemp("compiled")
    return made(network("tiny"), out / "float.pellucid"), made(network("tiny"), out / "float-int8.pellucid", folder)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("size", [SIZE, (96, 64)])
def test_logits_are_near_those_of_the_float_network_and_gradients_are_the_same(
    both: Pair, engine: Any, size: tuple[int, int]
) -> None:
    single, rounded = (each if size == SIZE else each.at(size) for each in both)
    logits, layer = single.manifest.logits, single.manifest.values[single.spec.feature_layers[0]]
    wanted = np.eye(5, dtype=np.float32)[[0] * 4]

    def seen(network: CompiledNetwork, *outputs: str) -> Any:
        runtime = choose.create(network, engine=engine, device="cpu", precision="fp32", threads=1)
        rows = None if network.graph.of_wanted.isdisjoint(outputs) else wanted
        found, _ = runtime.run(pixels(4, size), rows, outputs, "whole")
        return [found[name].copy() for name in outputs], runtime

    (expected, gradient), _ = seen(single, logits, layer.gradient or "")
    (also, same), _ = seen(rounded, logits, layer.gradient or "")
    assert np.array_equal(gradient, same)
    assert np.array_equal(expected, also)
    head = choose.create(rounded, engine=engine, device="cpu", precision="fp32", threads=1).behind(layer)
    (found, *crossing), runtime = seen(rounded, logits, *head.inputs)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 0.01  # 0.002; with sums that saturate, on processors without VNNI, it would be 0.03
    # What is removed behind a layer is compared with these logits.
    assert np.allclose(runtime.behind(layer).logits(crossing, "whole"), found, atol=1e-4)


def test_openvino_runs_every_convolution_in_8_bits(both: Pair) -> None:
    runtime = OpenVINORuntime(both[1], bf16=False, threads=1)
    running = runtime.compile(runtime._from_images((both[1].manifest.logits,)), (1, 1)).get_runtime_model()
    kinds = [dict(node.get_rt_info()) for node in running.get_ops()]
    precisions = [
        str(kind["runtimePrecision"].astype(str)) for kind in kinds if "Conv" in str(kind["layerType"].astype(str))
    ]
    assert precisions
    assert {*precisions} <= {"u8", "i8"}


@pytest.mark.parametrize("engine", ENGINES)
def test_what_ran_in_int8_says_so(both: Pair, engine: Any) -> None:
    explained = pellucid.open(both[1], engine=engine, precision="fp32", threads=1)
    assert explained.engine.info.precision == "int8+fp32"
    assert explained.engine.info.description.endswith("int8+fp32")
    assert both[1].model.source.endswith("; convolutions in int8, calibrated on 12 pictures")
    assert [each.model.name for each in both] == ["float", "float-int8"]  # both can be served
    assert both[1].model.parameters_sha256 == both[0].model.parameters_sha256


class Flat(nn.Module):
    """No convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 5)

    def forward(self, x: Any) -> Any:
        return self.classifier(x.mean((2, 3)))


def test_what_cannot_be_calibrated_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.pellucid"
    with pytest.raises(CompileError, match="int8 is calibrated on pictures, and the folder has none"):
        made(network("tiny"), out, tmp_path)
    (tmp_path / "broken.png").write_bytes(encoded(pixels(1)[0])[:200])
    with pytest.raises(CompileError, match=r"broken\.png can't calibrate int8: "):
        made(network("tiny"), out, tmp_path)
    with pytest.raises(CompileError, match="no convolutions, so there is nothing to run in int8"):
        made(Flat(), out, folder)
    assert not out.exists()
