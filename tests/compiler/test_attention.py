"""Attention between tokens is found by what the network computes, also where torch computes it by one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.errors import Unexplainable
from pellucid.network.spec import PIXELS
from pellucid.types import MapSpec, Plan
from tests.explain.passes import Passes, pictures
from tests.networks import PREPROCESS, SIZE, Tokens, in_memory, traced

SMALL: dict[str, Any] = {"img_size": 64, "embed_dim": 24, "num_heads": 3, "depth": 2, "num_classes": 5}


def of_torchvision() -> nn.Module:
    net = torchvision.models.VisionTransformer(64, 16, 2, 3, 24, 48, num_classes=5)
    # Zeros in an untrained network: the logits would read no token.
    nn.init.normal_(net.get_parameter("heads.head.weight"))
    whole: nn.Module = net
    return whole


def of_timm(**more: Any) -> nn.Module:
    net: nn.Module = timm.create_model("vit_tiny_patch16_224", **SMALL, **more)
    return net


class Functional(nn.Module):
    """One attention, written in the network's own ``forward``, so that no module holds a block."""

    def __init__(self, masked: bool = False) -> None:
        super().__init__()
        self.patches, self.mixed = nn.Conv2d(3, 12, 16, 16), nn.Linear(12, 36)
        self.classifier, self.masked = nn.Linear(12, 5), masked

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        query, key, value = self.mixed(x).unflatten(2, (3, 3, 4)).permute(2, 0, 3, 1, 4)
        mask = torch.ones(16, 16, dtype=torch.bool).tril() if self.masked else None
        y = F.scaled_dot_product_attention(query, key, value, mask, scale=0.3)
        logits: Tensor = self.classifier((x + y.transpose(1, 2).flatten(2)).mean(1))
        return logits


class OfAChosenToken(Tokens):
    """A second attention, from the class token alone to all others, as in CaiT."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.first(torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.places)
        weights = (self.second.query(x[:, :1]) @ self.second.key(x).transpose(1, 2)).softmax(-1)
        logits: Tensor = self.classifier((weights @ self.second.value(x))[:, 0])
        return logits


# Network -> its attentions' names, heads, extra tokens, and the tokens that its logits read.
FOUND: dict[str, tuple[Callable[[], nn.Module], list[str], int, int, tuple[int, int]]] = {
    "torchvision": (
        of_torchvision,
        [f"encoder.layers.encoder_layer_{block}.self_attention" for block in (0, 1)],
        *(3, 1, (0, 1)),
    ),
    "timm": (of_timm, ["blocks.0.attn", "blocks.1.attn"], 3, 1, (0, 1)),
    "averaged": (lambda: of_timm(global_pool="avg"), ["blocks.0.attn", "blocks.1.attn"], 3, 1, (1, 17)),
    "registers": (lambda: of_timm(reg_tokens=2), ["blocks.0.attn", "blocks.1.attn"], 3, 3, (0, 1)),
    "written out": (Tokens, ["first", "second"], 1, 1, (0, 1)),
    "in no module": (Functional, ["attention"], 3, 0, (0, 16)),
    "masked": (lambda: Functional(masked=True), ["attention"], 3, 0, (0, 16)),
}


@pytest.mark.parametrize("name", FOUND)
def test_every_attention_is_found_with_its_tokens(name: str) -> None:
    make, names, heads, extra, read = FOUND[name]
    torch.manual_seed(0)
    net = in_memory(make())
    assert [each.name for each in net.spec.attentions] == names
    assert {(each.heads, each.extra, each.grid, each.read) for each in net.spec.attentions} == {
        (heads, extra, (4, 4), read)
    }
    for nodes in net.manifest.attention_values.values():
        matrix = Passes(net, pictures(2).float()).value(nodes.node)
        assert matrix.shape[-2:] == (16 + extra,) * 2
        np.testing.assert_allclose(matrix.sum(-1), 1, rtol=1e-5)
        assert (nodes.gradient is None) == (name in ("in no module", "masked"))


@pytest.mark.parametrize(
    "make",
    [
        OfAChosenToken,
        lambda: timm.create_model("vit_base_patch16_siglip_224", img_size=64, depth=1, num_classes=5),  # pools by one
        lambda: timm.create_model("xcit_nano_12_p16_224", img_size=64, num_classes=5),  # between channels
        lambda: timm.create_model("resnet18", num_classes=5),
    ],
)
def test_attention_of_another_kind_is_none(make: Callable[[], nn.Module]) -> None:
    assert TracedNetwork(make(), SIZE).spec.attentions == ()


def test_attention_in_windows_is_none() -> None:
    net = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, depths=(2, 2), num_heads=(3, 6), embed_dim=24, num_classes=5
    )
    assert TracedNetwork(net, (56, 56)).spec.attentions == ()


def test_writing_attention_out_adds_no_layers() -> None:
    torch.manual_seed(0)
    spec = TracedNetwork(of_timm(), SIZE).spec
    names = [layer.name for layer in spec.layers if layer.name.startswith("blocks.0.attn")]
    assert names == ["blocks.0.attn.qkv"]
    assert spec.default_layer == "blocks.0"
    assert traced("tokens").spec.gates == ()


def test_a_network_without_blocks_has_rollout_and_no_legrad() -> None:
    torch.manual_seed(0)
    passes = Passes(in_memory(Functional().double(), replace(PREPROCESS, size=SIZE)), pictures(1))
    (outcome,) = passes.run(Plan(heat_maps=(MapSpec("attention-rollout", (PIXELS,)),)))
    assert outcome.explanations[0].heat.sum() == pytest.approx(1)
    with pytest.raises(
        Unexplainable, match="There is no gradient at 'attention': no module around it returns the tokens"
    ):
        passes.run(Plan(heat_maps=(MapSpec("legrad", (PIXELS,)),)))
