"""What an explanation costs the engine beside a prediction."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks import timings
from benchmarks.engine import inputs, load_engine
from benchmarks.timings import FIVE, LAYERS
from pellucid.network.spec import NetworkSpec
from pellucid.types import Batch, Plan, Tap
from service.config import Settings

SIZES = (1, 8)


def plans(network: NetworkSpec) -> dict[str, Plan]:
    """What is timed, by its name in the table."""
    taps = tuple(map(Tap, network.feature_layers))
    found = {"predict": Plan(top_k=5)}
    for layer in LAYERS:
        found[f"grad-cam, 1 class, {layer}"] = Plan(layer=layer)
        found[f"grad-cam, 5 classes, {layer}"] = Plan(layer=layer, targets=FIVE)
    found["all four parts"] = Plan(top_k=5, gates=True, taps=taps, layer=network.default_layer)
    found["all four parts, gates' effects"] = replace(found["all four parts"], effects=True)
    return found


def measure(rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Raw figures: for each plan and batch size, seconds of a batch in each round; ``served`` is what timings found."""
    served = timings.measure(rounds, say)
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
        "engine": engine.info.description,
        "cells": [{"plan": name, "batch": size, "seconds": seconds} for (name, size), seconds in cells.items()],
        "served": served,
    }
