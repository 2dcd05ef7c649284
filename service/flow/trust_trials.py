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

from ..dispatch.admission import Forecast
from ..dispatch.cost import cost
from .networks import Served
from .one_pass import Ask, run, together

T = TypeVar("T")

# Pictures of one image's trials that are made at once. The pool decodes others' pictures as well.
_MAKERS: Final = 2
# The share of the time from the first batch to the deadline after which the speed of trials is known.
_TOLD: Final = 0.1


def estimate(network: Served, passes: int, plan: Plan) -> float:
    """Seconds for so many trials by this plan: what trials took lately, or else the worker's forecast.

    0 where nothing is known of either.
    """
    lane = network.worker.lane(plan)
    return network.trials.predict(passes * cost(lane)) or network.worker.seconds_for({lane: passes})


async def tried(
    ask: Ask,
    write: Callable[[Ask, DecodedImage, Outcome, Sequence[Trusted]], T],
    forecast: Forecast,
    deadline: float,
    turn: asyncio.Semaphore,
    untried: Callable[[], int],
    advice: str,
) -> T:
    """What is written of one pass, after its maps have been tried, one image's at a ``turn``."""
    network, design, times = ask.network, ask.options.design, ask.times
    assert design is not None
    image, outcome = await run(ask, lambda _, image, outcome: (image, outcome), deadline, in_engine_thread=True)
    async with turn:
        with times.timed("trust"):
            found = await examined(
                network, forecast, image, ask.plan, outcome, design, deadline, untried, advice=advice
            )
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
    *,
    advice: str = "",
) -> tuple[Trusted, ...]:
    """How far the outcome's maps can be trusted, one for each target.

    The worker never has more of an image's pictures than fit into one batch. Raises TooCostly, with ``advice`` at its
    end, if the trials' own speed shows that those of the request's ``untried`` images, this one among them, can't be
    done by the deadline, and what the worker raises.
    """
    trials = await network.in_pool(perturbations_of, image, outcome, network.spec.preprocess, design)
    tiles = len(image.tiles)
    passes = len(trials) * tiles
    plan = scoring_plan(asked, outcome, size_of(image, network.spec))
    estimated_s = estimate(network, passes, plan)
    of_pass = cost(network.worker.lane(plan))
    size = max(1, int(network.worker.batch_cap / (tiles * of_pass)))
    groups = [range(len(trials))[start : start + size] for start in range(0, len(trials), size)]
    scores = np.zeros((len(trials), trials.targets))
    done = timed = 0

    # A lane's first pass waits until the lane is compiled, which later ones do not. Others may wait for the same.
    await asyncio.shield(asyncio.wrap_future(network.worker.prepared(plan)))
    started = time.monotonic()

    def observe() -> None:
        if timed:  # the mean of all: a line through few and many passes would keep the slope of one slow trial
            network.trials.observe(1, (time.monotonic() - started) / (timed * tiles * of_pass))

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
            if done or len(groups) == 1:
                timed += len(group)
            else:  # the first batch also pays for what is done once
                started = time.monotonic()
            done += len(group)
            now = time.monotonic()
            if timed and now - started > _TOLD * (deadline - started):
                needed = (untried() * len(trials) - done) * (now - started) / timed
                _require_time(needed, passes, deadline - now, untried(), advice)
    return await network.in_pool(measure, trials, scores, outcome, network.spec.output, estimated_s, tiles)


def _require_time(needed: float, passes: int, left: float, images: int, advice: str) -> None:
    """Raise TooCostly if the trials of the ``images`` are ``needed`` seconds from their end, and fewer are ``left``."""
    if needed > left:
        of_all = f"{images} images with {passes} passes each" if images > 1 else f"{passes} passes"
        raise TooCostly(
            f"trust: {of_all} through the network would take about {1000 * needed:.0f} ms more, and the deadline is in "
            f"{max(0, 1000 * left):.0f} ms. Ask for fewer `trust_steps`, `trust_maps`, targets or images{advice}."
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
