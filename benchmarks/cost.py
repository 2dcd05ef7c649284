"""What an explanation costs the engine beside a prediction."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.engine import inputs, load_engine
from pellucid.network.spec import NetworkSpec
from pellucid.types import Batch, Plan, Tap
from service.config import Settings

SIZES = (1, 8)
_FIVE = (285, 281, 282, 967, 657)


def plans(network: NetworkSpec) -> dict[str, Plan]:
    """What is timed, by its name in the table: layers are the default, and a middle and an early one."""
    default = network.default_layer
    early, middle, _ = network.feature_layers[:3]
    taps = tuple(map(Tap, network.feature_layers))
    return {
        "predict": Plan(top_k=5),
        f"grad-cam, 1 class, {default} (default layer)": Plan(layer=default),
        f"grad-cam, 5 classes, {default} (default layer)": Plan(layer=default, targets=_FIVE),
        f"grad-cam, 1 class, {middle} (middle)": Plan(layer=middle),
        f"grad-cam, 5 classes, {middle} (middle)": Plan(layer=middle, targets=_FIVE),
        f"grad-cam, 1 class, {early} (early)": Plan(layer=early),
        f"grad-cam, 5 classes, {early} (early)": Plan(layer=early, targets=_FIVE),
        "all four parts": Plan(top_k=5, gates=True, taps=taps, layer=default),
        "all four parts, gates' effects": Plan(top_k=5, gates=True, effects=True, taps=taps, layer=default),
    }


def measure(rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Raw figures: for each plan and batch size, seconds of a batch in each round."""
    engine, spec = load_engine(Settings(), slots=1)  # a batch on all cores
    images = inputs(spec)
    cells: dict[tuple[str, int], list[float]] = {}
    for number in range(-1, rounds):  # the first one builds graphs and warms up
        for name, plan in plans(engine.network).items():
            for size in SIZES:
                batch = Batch(images[:size], (plan,) * size)
                engine.run(batch)  # what ran before leaves its threads spinning and its values in the caches
                started = time.perf_counter()
                engine.run(batch)
                if number >= 0:
                    cells.setdefault((name, size), []).append(time.perf_counter() - started)
    for (name, size), seconds in cells.items():
        say(f"{name}, batch of {size}: {statistics.median(seconds) * 1000:.2f} ms")
    return {
        "engine": engine.description,
        "cells": [{"plan": name, "batch": size, "seconds": seconds} for (name, size), seconds in cells.items()],
    }
