"""A map's trials on their way through the worker: a few at a time, so that nobody else waits long for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Final, TypeVar

import numpy as np

from pellucid.errors import TooCostly
from pellucid.parts.trust import Trusted, scoring, trials_of, trusted
from pellucid.trust.trials import Design, Trials
from pellucid.types import DecodedImage, Finished, Outcome, Pixels, Plan

from ..dispatch.forecast import Forecast
from .joint import first_error
from .run import Pipeline

T = TypeVar("T")

# Pictures of one image's trials that are made at once. The pool decodes others' pictures as well.
_MAKERS: Final = 2


def estimate(pipeline: Pipeline, passes: int) -> float:
    """Seconds for so many trials on this network: the worker's forecast, or what trials took lately, if that is more.

    0 where nothing is known of either.
    """
    engine = pipeline.worker.seconds_for({pipeline.worker.lane(Plan()): passes})
    return max(engine, pipeline.trials.predict(passes))


async def examined(
    pipeline: Pipeline,
    forecast: Forecast,
    image: DecodedImage,
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
    trials = await _in_pool(pipeline, trials_of, image, outcome, pipeline.spec.preprocess, design)
    estimated_s = estimate(pipeline, len(trials))
    plan = scoring(outcome)
    size = pipeline.worker.batch_cap
    groups = [range(len(trials))[start : start + size] for start in range(0, len(trials), size)]
    scores = np.zeros((len(trials), trials.targets))
    done = 0

    def observe() -> None:
        if done:
            pipeline.trials.observe(done, time.monotonic() - started)

    with ExitStack() as stack:
        passed = stack.enter_context(forecast.passes(pipeline.worker, plan, len(trials)))
        stack.callback(observe)
        pictures = await _made(pipeline, trials, groups[0])
        for group, following in zip(groups, [*groups[1:], range(0)], strict=True):
            with first_error():
                async with asyncio.TaskGroup() as both:
                    running = both.create_task(_run(pipeline, pictures, plan, deadline))
                    making = both.create_task(_made(pipeline, trials, following))
            pictures = making.result()
            scores[group] = [[each.probability for each in one.outcome.scored] for one in running.result()]
            passed(len(group))
            if not done:
                # Only now: these few tell whether a forecast that was too dark still is.
                _require_time(pipeline, trials, len(group), started, deadline, untried())
            done += len(group)
    return await _in_pool(pipeline, trusted, trials, scores, outcome, estimated_s)


def _require_time(pipeline: Pipeline, trials: Trials, done: int, started: float, deadline: float, images: int) -> None:
    now = time.monotonic()
    pipeline.trials.observe(done, now - started)
    needed = images * estimate(pipeline, len(trials)) - (now - started)
    left = deadline - now
    if needed > left:
        of_all = f"{images} images with {len(trials)} passes each" if images > 1 else f"{len(trials)} passes"
        raise TooCostly(
            f"trust: {of_all} through the network would take about {1000 * needed:.0f} ms more, and the deadline is in "
            f"{max(0, 1000 * left):.0f} ms. Ask for fewer `trust_steps`, `trust_maps`, targets or images, or for a "
            "longer `timeout_ms`."
        )


async def _run(pipeline: Pipeline, pictures: Sequence[Pixels], plan: Plan, deadline: float) -> list[Finished]:
    jobs = [asyncio.wrap_future(pipeline.worker.submit(pixels, plan, deadline)) for pixels in pictures]
    return await asyncio.gather(*jobs)


async def _made(pipeline: Pipeline, trials: Trials, numbers: Sequence[int]) -> list[Pixels]:
    """The pictures of these trials, a few made at a time, each a task of its own in the pool."""
    made: list[Pixels | None] = [None] * len(numbers)

    async def some(first: int) -> None:
        for place in range(first, len(numbers), _MAKERS):
            made[place] = await _in_pool(pipeline, trials.picture, numbers[place])

    with first_error():
        async with asyncio.TaskGroup() as makers:
            for first in range(_MAKERS):
                makers.create_task(some(first))
    return [pixels for pixels in made if pixels is not None]


async def _in_pool(pipeline: Pipeline, function: Callable[..., T], *arguments: object) -> T:
    future: Future[T] = pipeline.pool.submit(function, *arguments)
    return await asyncio.wrap_future(future)
