"""The sanity check's maps are those of heads with other weights, the same ones each time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from pellucid.explain.evidence import Head, gather
from pellucid.explain.methods.gradient import grad_cam
from pellucid.explain.randomised import maps
from pellucid.trust.measures import sanity
from tests.networks import images, network, traced


@pytest.mark.parametrize(("name", "layer"), [("tiny", "head"), ("tiny", "stem"), ("resnet18", "layer4")])
def test_random_heads_make_other_maps_and_leave_the_network_alone(name: str, layer: str) -> None:
    net = traced(name)
    cut = net.cut(layer)
    head = Head(cut.inputs, cut.head, cut.linear)
    before = copy.deepcopy(network(name).state_dict())
    with torch.no_grad():
        crossing = net.trunk(cut.inputs)(images(1))
        (evidence,) = gather(crossing, [[1, 3]], head)
        heat = grad_cam(evidence).numpy()
        found, again = (maps(crossing, [1, 3], None, head, grad_cam, 4, lambda: False) for _ in range(2))
        assert found is not None
        assert again is not None
        assert maps(crossing, [1], None, head, grad_cam, 4, lambda: True) is None
    assert found.shape == (4, 2, *heat.shape[1:])
    assert torch.equal(found, again)
    for k in range(2):
        likeness = sanity(heat[k], found[:, k].numpy())
        assert all(each is None or abs(each) < 0.999 for each in likeness)
        assert len({None if each is None else round(each, 6) for each in likeness}) > 1
    for key, value in network(name).state_dict().items():
        assert torch.equal(value, before[key])


def test_the_weights_that_all_requests_share_are_never_swapped_not_even_for_a_moment() -> None:
    shared = nn.Linear(4, 3)
    weights = shared.weight.detach().clone()
    kept: list[bool] = []

    class Bystander(nn.Module):
        """Looks at the network's own weights while a random head runs, as another thread may."""

        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            kept.append(torch.equal(shared.weight, weights))
            return logits

    head = Head(("layer",), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), shared, nn.Tanh(), Bystander()), None)
    generator = torch.Generator().manual_seed(0)
    assert maps((torch.rand(1, 4, 5, 5, generator=generator),), [1], None, head, grad_cam, 3, lambda: False) is not None
    assert kept == [True] * 3


def test_a_map_that_needs_no_weights_is_seen_through() -> None:
    """The mean over channels is an edge detector: it looks the same whatever the head has learnt."""
    net = traced("tiny")
    cut = net.cut("head")
    with torch.no_grad():
        crossing = net.trunk(cut.inputs)(images(1))
        head = Head(cut.inputs, cut.head, cut.linear)
        found = maps(crossing, [1], None, head, lambda evidence: evidence.activation.mean(0)[None], 3, lambda: False)
    assert found is not None
    assert sanity(crossing[0][0].mean(0).numpy(), found[:, 0].numpy()) == pytest.approx((1, 1, 1))
