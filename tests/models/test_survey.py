"""The survey of one network of each family: both runtimes compute correct gates and Grad-CAM maps.

``python -m tests.survey`` does the same with all of them, and writes docs/reference/networks.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import timm
import torch

from tests.survey import examine
from tests.surveyed import CLASSES, Entry, of_timm, of_torchvision

TORCHVISION = ("mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1")  # ResNets: tests/explain/test_oracles.py


SIZES: dict[str, Any] = {"num_classes": CLASSES, "channels": [8, 16, 16, 16], "stem_width": 8}


def narrow(kind: str) -> Entry:
    """timm's smallest ResNet, of few channels, with a gate of this kind in each of its four blocks."""
    return Entry("timm", kind, 64, partial(timm.create_model, "resnet10t", **SIZES, block_args={"attn_layer": kind}))


# A network and the type of its gates, or None.
CASES: list[tuple[Entry, str | None]] = [
    (of_timm("tinynet_e"), "SqueezeExcite"),
    (Entry("timm", "sk", 64, partial(timm.create_model, "skresnet18", **SIZES, layers=[1] * 4)), "SelectiveKernel"),
    (of_timm("convnextv2_atto"), None),
    (of_timm("test_vit", 160), None),
    (narrow("ese"), "EffectiveSEModule"),
    (narrow("cbam"), "ChannelAttn"),
    (narrow("ceca"), "CecaModule"),
]


@pytest.mark.parametrize("entry", [*map(of_torchvision, TORCHVISION)], ids=lambda entry: entry.name)
def test_grad_cam_equals_captums_for_torchvisions_families(entry: Entry) -> None:
    row = examine(entry)
    assert not row.errors
    assert not row.limits
    assert row.several
    assert len(row.cams) == 2
    assert row.layers > 10


@pytest.mark.parametrize(("entry", "kind"), CASES, ids=lambda value: getattr(value, "name", value))
def test_grad_cam_equals_captums_for_timms_families_and_gate_weights_are_the_factors(
    entry: Entry, kind: str | None
) -> None:
    row = examine(entry)
    assert not row.errors
    assert row.gradients == "OpenVINO"
    assert [*row.gates] == ([kind] if kind else [])


def test_the_survey_notices_wrong_gate_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.survey._once", lambda factor: torch.zeros_like(factor[:, :, :1, :1]))
    row = examine(narrow("ceca"))
    assert row.gates_wrong == sum(row.gates.values()) == 4
    assert "4 gates are not what multiplied the channels" in row.errors["gates"]
