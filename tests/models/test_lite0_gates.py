"""The default network's trained gates: their file, and their effect on real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models import catalog
from models.insert import gate_state
from models.lite0 import GATED_LAYERS
from models.training.corruptions import Corruption, Picture, brightness, noise
from models.training.pictures import centre_crop, to_pixels
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.compiler.weights import WeightsError
from pellucid.network.spec import ModelSpec
from tests.support import SAMPLES

PHOTOGRAPHS = ("cat", "coffee", "rocket")


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def networks(request: pytest.FixtureRequest) -> tuple[TracedNetwork, TracedNetwork, ModelSpec]:
    """lite0, lite0-plain and the spec of both."""
    gated, spec = catalog.load("lite0")
    plain, _ = catalog.load("lite0-plain")
    traced = [TracedNetwork(net.to(request.param), spec.preprocess.size) for net in (gated, plain)]
    return traced[0], traced[1], spec


def sample(name: str, spec: ModelSpec) -> Picture:
    return centre_crop(SAMPLES / f"{name}.jpg", spec.preprocess)


def show(network: TracedNetwork, picture: Picture, spec: ModelSpec) -> tuple[Tensor, list[Tensor]]:
    """Probabilities ``[classes]``, and each gate's weights ``[C]``."""
    part = network.trunk([network.logits, *network.gates.values()])
    dtype = next(part.parameters()).dtype
    logits, *gates = part(to_pixels([picture], spec.preprocess).to(dtype))
    return logits.float().softmax(1)[0], [gate.float().flatten() for gate in gates]


def test_the_catalog_has_lite0_with_and_without_gates() -> None:
    gated, spec = catalog.load("lite0")
    plain, plain_spec = catalog.load("lite0-plain")
    assert (spec.name, plain_spec.name) == ("lite0", "lite0-plain")
    assert spec.labels == plain_spec.labels
    assert gate_state(plain) == {}
    assert sum(value.numel() for value in gate_state(gated).values()) == 81_530
    assert catalog.LITE0_GATES.stat().st_size < 1_000_000


def test_an_altered_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    altered = tmp_path / "lite0_gates.safetensors"
    content = bytearray(catalog.LITE0_GATES.read_bytes())
    content[-1] ^= 1
    altered.write_bytes(content)
    monkeypatch.setattr(catalog, "LITE0_GATES", altered)
    with pytest.raises(WeightsError, match="sha256"):
        catalog.load("lite0")


def test_all_seven_gates_are_found(networks: tuple[TracedNetwork, TracedNetwork, ModelSpec]) -> None:
    gated, plain, _ = networks
    assert [*gated.gates] == [f"{layer}.gate" for layer in GATED_LAYERS]
    assert plain.gates == {}
    assert gated.spec.default_layer == plain.spec.default_layer == "head"
    assert gated.linear("head") is not None  # Grad-CAM at the head is still closed-form


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_gates_hardly_change_the_answers_for_clean_pictures(
    networks: tuple[TracedNetwork, TracedNetwork, ModelSpec], name: str
) -> None:
    gated, plain, spec = networks
    picture = sample(name, spec)
    now, _ = show(gated, picture, spec)
    before, _ = show(plain, picture, spec)
    assert (now - before).abs().sum() / 2 < 0.2  # the probability that moved to other classes


@pytest.mark.parametrize("corruption", [noise, brightness])
def test_damage_changes_the_gates_weights(
    networks: tuple[TracedNetwork, TracedNetwork, ModelSpec], corruption: Corruption
) -> None:
    gated, _, spec = networks
    picture = sample("cat", spec)
    _, clean = show(gated, picture, spec)
    _, damaged = show(gated, corruption(picture, 0.8, np.random.default_rng(0)), spec)
    assert max((a - b).abs().max().item() for a, b in zip(clean, damaged, strict=True)) > 0.1
