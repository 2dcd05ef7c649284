"""What queueing theory says of greedy batching: everything that waits is taken as soon as the engine is free."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Least squares of seconds = a + b·size -> (a, b), neither below zero."""
    count, mean = len(sizes), sum(sizes) / len(sizes)
    slope = sum((n - mean) * s for n, s in zip(sizes, seconds, strict=True)) / sum((n - mean) ** 2 for n in sizes)
    slope = max(0.0, slope)
    return max(0.0, sum(seconds) / count - slope * mean), slope


def mean_latency_bound(rate: float, a: float, b: float) -> float:
    """Upper bound of the mean seconds from arrival to answer, for Poisson arrivals at ``rate`` a second.

    Y. Inoue, "Queueing Analysis of GPU-Based Inference Servers with Dynamic Batching: A Closed-Form Characterization",
    Performance Evaluation 147 (2021), arXiv 1912.06322: the bound min(phi_0, phi_1) for linear batch processing times
    H = a + b·B (there tau_0 and alpha). The batch size is **not** bounded there; infinite where ``rate``·b >= 1.

    Where it comes from. Let A be the arrivals during H, p the chance of none; the next batch is A, or 1 after none.
    So E[B] = rate·E[H] + p and E[B²] = E[B] + rate²·E[H²]. A request waits for the rest of the batch that it comes
    upon, rate·E[H²]/2 over all of a batch's arrivals, then for its own batch, E[B·H] over all of a batch's requests:
    E[W] = (rate·E[H²]/2 + E[B·H]) / E[B]. All of that is known but E[B]; it grows as E[B] falls, so a lower bound of
    E[B] bounds it from above: E[B] >= 1 gives phi_0, and E[B] >= rate·a / (1 - rate·b) gives phi_1.
    """
    load = rate * b
    if load >= 1:
        return float("inf")
    phi_0 = (a + b) / (2 * (1 - load)) * (1 + 2 * rate * a + (1 - rate * a) / (1 + load))
    phi_1 = 1.5 * a / (1 - load) + b / 2 * (load + 2) / (1 - load**2)
    return min(phi_0, phi_1)


def simulate(rate: float, a: float, b: float, *, requests: int, max_batch: int | None = None, seed: int = 0) -> float:
    """Mean seconds from arrival to answer of greedy batching, simulated; ``max_batch`` None bounds no batch."""
    draw = random.Random(seed)
    free, arrival, total = 0.0, draw.expovariate(rate), 0.0
    waiting: deque[float] = deque()
    answered = 0
    while answered < requests:
        start = max(free, waiting[0] if waiting else arrival)
        while arrival <= start:
            waiting.append(arrival)
            arrival += draw.expovariate(rate)
        size = len(waiting) if max_batch is None else min(len(waiting), max_batch)
        free = start + a + b * size
        total += sum(free - waiting.popleft() for _ in range(size))
        answered += size
    return total / answered
