"""A map's trials on their way through the worker: a few at a time, so that nobody else waits long for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np

from pellucid.decode.region import size_of
from pellucid.errors import TooCostly
from pellucid.parts.trust import Trusted, measure, perturbations_of, scores_of, scoring_plan
from pellucid.trust.perturbations import Design, Perturbations
from pellucid.types import DecodedImage, InputPixels, Outcome, Plan, Prediction

from ..dispatch.forecast import Forecast
from .networks import Served
from .one_pass import Ask, run, together

T = TypeVar("T")

# Pictures of one image's trials that are made at once. The pool decodes others' pictures as well.
_MAKERS: Final = 2


def estimate(network: Served, passes: int) -> float:
    """Seconds for so many trials on this network: the worker's forecast, or what trials took lately, if that is more.

    0 where nothing is known of either.
    """
    engine = network.worker.seconds_for({network.worker.lane(Plan()): passes})
    return max(engine, network.trials.predict(passes))


async def tried(
    ask: Ask,
    write: Callable[[Ask, DecodedImage, Outcome, Sequence[Trusted]], T],
    forecast: Forecast,
    deadline: float,
    turn: asyncio.Semaphore,
    untried: Callable[[], int],
) -> T:
    """What is written of one pass, after its maps have been tried, one image's at a ``turn``."""
    network, design, times = ask.network, ask.options.design, ask.times
    assert design is not None
    image, outcome = await run(ask, lambda _, image, outcome: (image, outcome), deadline, in_engine_thread=True)
    async with turn:
        with times.timed("trust"):
            found = await examined(network, forecast, image, ask.plan, outcome, design, deadline, untried)
    with times.timed("render"):
        return await network.in_pool(write, ask, image, outcome, found)


async def examined(
    network: Served,
    forecast: Forecast,
    image: DecodedImage,
    asked: Plan,
    outcome: Outcome,
    design: Design,
    deadline: float,
    untried: Callable[[], int],
) -> tuple[Trusted, ...]:
    """How far the outcome's maps can be trusted, one for each target.

    The worker never has more of an image's pictures than fit into one batch. Raises TooCostly as soon as it is known
    that the trials of the request's ``untried`` images, this one among them, can't be done by the deadline, and what
    the worker raises.
    """
    started = time.monotonic()
    trials = await network.in_pool(perturbations_of, image, outcome, network.spec.preprocess, design)
    tiles = len(image.tiles)
    passes = len(trials) * tiles
    estimated_s = estimate(network, passes)
    plan = scoring_plan(asked, outcome, size_of(image, network.spec))
    size = max(1, network.worker.batch_cap // tiles)
    groups = [range(len(trials))[start : start + size] for start in range(0, len(trials), size)]
    scores = np.zeros((len(trials), trials.targets))
    done = 0

    def observe() -> None:
        if done:
            network.trials.observe(done * tiles, time.monotonic() - started)

    with ExitStack() as stack:
        passed = stack.enter_context(forecast.passes(network.worker, plan, passes))
        stack.callback(observe)
        pictures = await _made(network, trials, groups[0])
        for group, following in zip(groups, [*groups[1:], range(0)], strict=True):
            ran, pictures = await together(
                _run(network, image, pictures, plan, deadline), _made(network, trials, following)
            )
            scores[group] = [scores_of(scored, asked) for scored in ran]
            passed(len(group) * tiles)
            if not done:
                # Only now: these few tell whether a forecast that was too dark still is.
                _require_time(network, passes, len(group) * tiles, started, deadline, untried())
            done += len(group)
    return await network.in_pool(measure, trials, scores, outcome, network.spec.output, estimated_s, tiles)


def _require_time(network: Served, passes: int, done: int, started: float, deadline: float, images: int) -> None:
    now = time.monotonic()
    network.trials.observe(done, now - started)
    needed = images * estimate(network, passes) - (now - started)
    left = deadline - now
    if needed > left:
        of_all = f"{images} images with {passes} passes each" if images > 1 else f"{passes} passes"
        raise TooCostly(
            f"trust: {of_all} through the network would take about {1000 * needed:.0f} ms more, and the deadline is in "
            f"{max(0, 1000 * left):.0f} ms. Ask for fewer `trust_steps`, `trust_maps`, targets or images, or for a "
            "longer `timeout_ms`."
        )


async def _run(
    network: Served, image: DecodedImage, pictures: Sequence[InputPixels], plan: Plan, deadline: float
) -> list[tuple[Prediction, ...]]:
    """The scores of each of the image's perturbed ``pictures``."""
    seen = [tile for pixels in pictures for tile in replace(image, pixels=pixels).tiles]
    jobs = [asyncio.wrap_future(network.worker.submit(pixels, plan, deadline)) for pixels in seen]
    outcomes = [finished.outcome for finished in await asyncio.gather(*jobs)]
    tiles = len(image.tiles)
    return [network.tiles.scores(outcomes[first : first + tiles], plan) for first in range(0, len(seen), tiles)]


async def _made(network: Served, trials: Perturbations, numbers: Sequence[int]) -> list[InputPixels]:
    """The pictures of these trials, a few made at a time, each a task of its own in the pool."""
    made: list[InputPixels | None] = [None] * len(numbers)

    async def some(first: int) -> None:
        for place in range(first, len(numbers), _MAKERS):
            made[place] = await network.in_pool(trials.picture, numbers[place])

    await together(*map(some, range(_MAKERS)))
    return [pixels for pixels in made if pixels is not None]
