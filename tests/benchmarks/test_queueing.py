"""The closed-form bound that batching is compared with holds, and is close."""

from __future__ import annotations

import math

import pytest

from benchmarks.queueing import fit, mean_latency_bound, simulate

A, B = 0.004, 0.002  # seconds of a batch, and of each image in it


@pytest.mark.parametrize("load", [0.02, 0.2, 0.5, 0.8])
def test_greedy_batching_stays_below_the_bound_and_near_it(load: float) -> None:
    rate = load / B
    simulated = simulate(rate, A, B, requests=20_000)
    bound = mean_latency_bound(rate, A, B)
    assert simulated <= 1.05 * bound  # the simulation is a sample, the same each time
    assert simulated >= 0.9 * bound


def test_who_comes_alone_waits_for_nobody() -> None:
    assert mean_latency_bound(1e-6, A, B) == pytest.approx(A + B, rel=1e-6)
    assert simulate(1e-6, A, B, requests=100) == pytest.approx(A + B)


def test_beyond_what_batches_of_any_size_can_do_nothing_bounds_the_wait() -> None:
    assert mean_latency_bound(1 / B, A, B) == math.inf


def test_a_bounded_batch_waits_longer_near_its_capacity() -> None:
    rate = 0.98 * 8 / (A + 8 * B)
    bounded = simulate(rate, A, B, requests=10_000, max_batch=8)
    assert bounded > 1.5 * simulate(rate, A, B, requests=10_000)


def test_service_times_give_back_their_line() -> None:
    sizes = [1, 2, 4, 8]
    assert fit(sizes, [A + B * n for n in sizes]) == pytest.approx((A, B))
