"""Admission limits the images and bytes in flight, and the cost model predicts when to retry."""

from __future__ import annotations

import pytest

from pellucid.errors import QueueFull
from service.dispatch.admission import Admission
from service.dispatch.cost import CostModel, LaneCosts


def test_images_beyond_the_limit_are_refused_until_others_leave() -> None:
    door = Admission(3, 100, lambda images: images * 2.0)
    with door.enter() as place:
        place.hold(images=2)
        with pytest.raises(QueueFull) as refused, door.enter() as second:
            second.hold(images=2)
        assert refused.value.headers == {"Retry-After": "4"}
        with door.enter() as third:
            third.hold(images=1)
            with pytest.raises(QueueFull), door.enter():
                pass
    assert door.in_flight == 0


def test_bytes_beyond_the_limit_are_refused_when_announced_and_when_received() -> None:
    door = Admission(3, 100, lambda _images: 0.0)
    with door.enter(100) as place:
        place.hold(size=60)
        with pytest.raises(QueueFull, match="MiB"), door.enter(41):
            pass
        with door.enter(40) as second:
            second.hold(size=40)
            with pytest.raises(QueueFull, match="MiB"):
                place.hold(size=1)
        assert door.bytes_in_flight == 60
    assert door.bytes_in_flight == 0


def test_announced_bytes_do_not_count_until_received() -> None:
    door = Admission(1, 100, lambda _images: 0.0)
    with door.enter(100), door.enter(100) as second:
        second.hold(images=1, size=100)


def test_an_error_releases_the_place() -> None:
    door = Admission(1, 100, lambda _images: 0.0)

    def fail() -> None:
        with door.enter() as place:
            place.hold(images=1, size=100)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert (door.in_flight, door.bytes_in_flight) == (0, 0)


def test_a_line_is_fitted_through_batch_sizes_and_seconds() -> None:
    cost = CostModel()
    for size in (1, 8, 3, 5, 1, 8):
        cost.observe(size, 0.004 + 0.0005 * size)
    assert cost.predict(4) == pytest.approx(0.006)
    assert cost.predict(16) == pytest.approx(0.012)


def test_recent_batches_outweigh_old_ones() -> None:
    cost = CostModel(decay=0.5)
    for seconds in (1.0, 0.01):
        for size in (1, 2, 4) * 10:
            cost.observe(size, seconds * size)
    assert cost.predict(2) == pytest.approx(0.02, rel=0.01)


def test_the_prediction_without_data_is_zero() -> None:
    assert CostModel().predict(8) == 0


def test_a_single_batch_size_predicts_in_proportion() -> None:
    cost = CostModel()
    cost.observe(4, 0.02)
    assert cost.predict(8) == pytest.approx(0.04)


def test_the_lane_that_ran_longest_ago_is_forgotten() -> None:
    costs = LaneCosts(kept=2)
    for lane in ("a", "b", "a", "c"):
        costs.observe(lane, 1, 1.0)
    assert [costs.predict(lane, 1) for lane in "abc"] == [1, 0, 1]


def test_waiting_images_cost_as_much_as_full_batches_of_each_lane() -> None:
    costs = LaneCosts()
    for size in (1, 2, 4):
        costs.observe("fast", size, 0.1 + 0.1 * size)
        costs.observe("slow", size, 1.0 * size)
    assert costs.seconds_for({"fast": 9, "slow": 2, "unknown": 50}, 4) == pytest.approx(0.5 + 0.5 + 0.2 + 2.0)


def test_lanes_that_differ_in_size_share_a_cost_by_pixel() -> None:
    costs = LaneCosts()
    for size in (1, 2, 4):
        costs.observe("head", size, 0.1 + 0.1 * size)
    costs.observe("head@256x352 x2.000", 3, 0.7)
    assert costs.predict("head@352x256 x1.500", 2) == pytest.approx(0.4)
    assert costs.predict("", 1) == costs.predict("head x2.000", 1) == costs.predict("a node x1.2.3", 1) == 0


def test_a_forecast_fills_batches_by_pixels() -> None:
    costs = LaneCosts()
    costs.observe("", 1, 0.2)
    costs.observe("", 4, 0.5)
    assert costs.seconds_for({"": 8}, 4) == pytest.approx(2 * 0.5)
    assert costs.seconds_for({"@32x32 x4.000": 2}, 4) == pytest.approx(2 * 0.5)
