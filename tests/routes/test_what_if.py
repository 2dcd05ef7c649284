"""`/v1/what-if`: channels and gates are edited by name, and what can't be is told."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

from pellucid.schemas import WhatIf
from tests.support import decoded, explained, post, present, problem


def asked(client: httpx.Client, image: bytes, **options: Any) -> WhatIf:
    found = explained(client, "/v1/what-if", image, **options).what_if
    assert found is not None
    return found


def test_muting_what_mattered_most_takes_what_was_measured(client: httpx.Client, cat: bytes) -> None:
    ranked = asked(client, cat, target="tabby", rank=True)
    assert ranked.ranking is not None
    assert ranked.targets[0].change == 0
    assert ranked.layer == "head"
    assert ranked.ranking.agreement.gradient_activation == pytest.approx(1, abs=1e-3)
    assert ranked.ranking.agreement.gate_weights is None
    most = ranked.ranking.most[0]
    assert abs(most.muted) == pytest.approx(max(map(abs, ranked.ranking.muted)))
    muted = asked(client, cat, target="tabby", mute=most.channel)
    assert muted.targets[0].change == pytest.approx(most.muted, abs=1e-3)


def test_a_gates_weights_are_edited_by_the_gates_name(client: httpx.Client, cat: bytes) -> None:
    found = asked(client, cat, gate="blocks.15.gate", mute=[275, 278], scale="190:0.5", target="tabby")
    assert found.gate == "blocks.15.gate"
    assert [each.model_dump(exclude_unset=True) for each in found.edit.channels] == [
        {"channel": 190, "factor": 0.5},
        {"channel": 275, "factor": 0.0},
        {"channel": 278, "factor": 0.0},
    ]
    (target,) = found.targets
    assert target.change == pytest.approx(present(target.after.logit) - present(target.before.logit), abs=1e-4)
    assert target.change != 0


def test_both_maps_and_their_difference_are_on_one_scale(client: httpx.Client, cat: bytes) -> None:
    maps = asked(client, cat, keep="795,254", target="Egyptian cat", signed=True).targets[0].maps
    first, second, difference = (np.array(each.raw.values) for each in (maps.first, maps.second, maps.difference))
    np.testing.assert_allclose(second - first, difference, atol=1e-5)
    assert maps.reach == pytest.approx(max(np.abs(each).max() for each in (first, second, difference)))
    masks = [decoded(each.mask).astype(int) for each in (maps.first, maps.second, maps.difference)]
    assert max(np.abs(mask - 128).max() for mask in masks) >= 115  # enlarged, the peak may lie between two pixels
    assert np.abs((masks[1] - masks[0]) - (masks[2] - 128)).max() <= 2


@pytest.mark.parametrize(
    ("options", "slug", "said"),
    [
        ({"mute": 1280}, "unknown-name", "Channels from 0 to 1279"),
        ({"mute": 1, "keep": 1}, "invalid-option", "named 2 times"),
        ({"scale": "1"}, "invalid-option", "CHANNEL:FACTOR"),
        ({"gate": "blocks.15.gat"}, "unknown-name", "blocks.15.gate"),
        ({"gate": "blocks.15.gate", "layer": "head"}, "invalid-option", "not both"),
        ({"layer": "haed"}, "unknown-name", "head"),
    ],
)
def test_what_can_not_be_edited_is_told(
    client: httpx.Client, cat: bytes, options: dict[str, Any], slug: str, said: str
) -> None:
    assert said in problem(post(client, "/v1/what-if", cat, **options), 422, slug).detail


def test_more_than_can_be_drawn_is_refused_before_any_work(client: httpx.Client, cat: bytes) -> None:
    targets = [str(number) for number in range(20)]
    response = post(client, "/v1/what-if", cat, mute=1, max_side=4096, target=targets)
    assert "million pixels" in problem(response, 422, "invalid-option").detail
