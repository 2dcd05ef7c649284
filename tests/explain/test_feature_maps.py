"""Feature maps show the channels that a plan names, or the strongest ones, with their statistics."""

from __future__ import annotations

import numpy as np
import torch

from pellucid.types import Plan, Tap
from tests.explain.passes import Passes, pictures
from tests.networks import compiled


def test_the_strongest_channels_come_first_and_each_has_its_statistics() -> None:
    passes = Passes(compiled("tiny-relu", torch.float64), pictures(2))
    plans = (Plan(taps=(Tap("head", channels=(5, 1)), Tap("stem", count=5))), Plan(taps=(Tap("stem", count=8),)))
    first, second = passes.run(*plans)
    named, strongest = first.maps
    assert (named.layer, named.channels) == ("head", (5, 1))
    np.testing.assert_array_equal(named.values, passes.map("head")[0, [5, 1]])
    (every,) = second.maps
    assert (len(strongest.channels), sorted(every.channels)) == (5, list(range(8)))
    for found, values in ((strongest, passes.map("stem")[0]), (every, passes.map("stem")[1])):
        assert found.shape == values.shape
        order = np.argsort(-np.abs(values).mean((1, 2)))[: len(found.channels)]
        assert found.channels == tuple(order.tolist())
        np.testing.assert_array_equal(found.values, values[order])
        np.testing.assert_allclose(found.mean, found.values.mean((1, 2)))
        np.testing.assert_array_equal(found.max, found.values.max((1, 2)))
        np.testing.assert_allclose(found.zeros, (found.values == 0).mean((1, 2)))
    assert 0 < every.zeros.max() < 1
