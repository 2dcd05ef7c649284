"""One network of each family through the survey: traced, cut, its gates and its Grad-CAM right, also under OpenVINO.

``python -m tests.survey`` does the same with all of them, and writes docs/networks.md.
"""

from __future__ import annotations

import pytest
import torch

from tests.survey import examine
from tests.surveyed import Entry, of_timm, of_torchvision, with_attention

TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11", "vit_b_32"),
)
# A network and the type of its gates, or none.
TIMM = {
    "seresnext26ts": "SEModule",
    "tf_efficientnet_b0": "SqueezeExcite",
    "nfnet_l0": "SEModule",
    "ese_vovnet19b_dw": "EffectiveSEModule",
    "ecaresnet26t": "EcaModule",
    "skresnet18": "SelectiveKernel",
    "resnest14d": "SplitAttn",
    "convnextv2_atto": None,
}
ATTENTION = {
    "cbam": "ChannelAttn",
    "ge": "GatherExcite",
    "gc": "GlobalContext",
    "ceca": "CecaModule",
}
CASES: list[tuple[Entry, str | None]] = [
    *((of_timm(name), kind) for name, kind in TIMM.items()),
    *((with_attention(name), kind) for name, kind in ATTENTION.items()),
]


@pytest.mark.parametrize("entry", [*map(of_torchvision, TORCHVISION)], ids=lambda entry: entry.name)
def test_every_family_of_torchvision_is_explained_as_captum_explains_it(entry: Entry) -> None:
    row = examine(entry)
    assert not row.errors
    assert len(row.cams) == 2
    assert row.layers > 10


@pytest.mark.parametrize(("entry", "kind"), CASES, ids=lambda value: getattr(value, "name", value))
def test_every_gate_of_timm_is_found_and_is_what_multiplied_the_channels(entry: Entry, kind: str | None) -> None:
    row = examine(entry)
    assert not row.errors
    assert [*row.gates] == ([kind] if kind else [])


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "cait_xxs24_224"])
def test_timms_transformers_are_explained_on_their_token_grid(name: str) -> None:
    row = examine(of_timm(name, 224))
    assert not row.errors
    assert len(row.cams) == 2


def test_the_survey_notices_a_gate_that_is_not_what_multiplied_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.survey._once", lambda factor: torch.zeros_like(factor[:, :, :1, :1]))
    row = examine(with_attention("ceca"))
    assert row.gates_wrong == row.gates.total() == 8
    assert "8 gates are not what multiplied the channels" in row.errors["gates"]
