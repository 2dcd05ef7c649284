"""Several passes through networks that make one answer together, which fails if one of them does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.responses import Response

from pellucid.errors import DeadlineExceeded, PellucidError
from pellucid.parts.compare import Seen
from pellucid.types import DecodedImage, Outcome, Plan, Prepared, Upload

from .run import Pipeline, Stages

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the passes. ``name`` is what an error calls it."""

    name: str
    pipeline: Pipeline
    plan: Plan
    image: Upload | Prepared


@dataclass(frozen=True, slots=True)
class Joint:
    """Sides, and how they are written together, in the pool.

    ``target`` gives the class that the other sides explain, of a side and the first's outcome: they wait for it. None
    where all is known, and all run side by side.
    """

    sides: tuple[Side, ...]
    write: Callable[[Sequence[Seen]], Response]
    target: Callable[[Side, Outcome], int] | None = None
    timeout_ms: int | None = None

    async def reply(
        self, deadline: float, stages: Sequence[Stages], answered: Sequence[Callable[[float], None]]
    ) -> Response:
        """The answer, by the ``deadline``. ``answered`` are the forecast's, one for each side, as are ``stages``."""
        try:
            async with asyncio.timeout(max(0, deadline - time.monotonic())):
                rest = list(zip(self.sides, stages, answered, strict=True))
                seen: list[Seen] = []
                if self.target is not None:
                    first, *rest = rest
                    seen = await all_or_none([(first[0].name, _seen(*first, deadline))])
                    rest = [(self._aimed(side, seen[0][1]), times, told) for side, times, told in rest]
                seen += await all_or_none([(each[0].name, _seen(*each, deadline)) for each in rest])
                with stages[0].timed("render"):
                    return await asyncio.wrap_future(self.sides[0].pipeline.pool.submit(self.write, seen))
        except TimeoutError as error:
            raise DeadlineExceeded("The answer was not ready by the deadline.") from error

    def _aimed(self, side: Side, outcome: Outcome) -> Side:
        assert self.target is not None
        return replace(side, plan=replace(side.plan, targets=(self.target(side, outcome),)))


async def _seen(side: Side, times: Stages, answered: Callable[[float], None], deadline: float) -> Seen:
    def both(image: DecodedImage, outcome: Outcome) -> Seen:
        return image, outcome

    try:
        return await side.pipeline.run(side.image, side.plan, None, both, deadline, times, brief=True)
    finally:
        answered(times.seconds.get("decode", 0.0))


async def all_or_none(named: Sequence[tuple[str, Coroutine[Any, Any, T]]]) -> list[T]:
    """The results of all. The first error stops the others, and is raised with its name once they have ended."""
    tasks: dict[asyncio.Task[T], str] = {}
    try:
        with first_error():
            async with asyncio.TaskGroup() as group:
                tasks = {group.create_task(work): name for name, work in named}
    except PellucidError as error:
        name = next(name for task, name in tasks.items() if not task.cancelled() and task.exception() is error)
        raise error.about(name) from None
    return [task.result() for task in tasks]


@contextmanager
def first_error() -> Iterator[None]:
    """Raise the first error of the TaskGroup inside, and not the group."""
    try:
        yield
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
