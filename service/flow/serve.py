"""One request with images from top to bottom, whatever route or protocol it came by."""

from __future__ import annotations

import asyncio
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, ClassVar, Final, Generic, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from pellucid.errors import ContentTooLarge, DeadlineExceeded, Draining, PellucidError
from pellucid.parts.option_types import Options
from pellucid.parts.predictions import PredictOptions
from pellucid.parts.targets import TargetOptions, liken
from pellucid.parts.trust import Trusted
from pellucid.types import DecodedImage, Outcome, Plan

from ..dispatch.admission import Forecast, Place
from ..dispatch.turns import caller
from ..http.connection import connected
from ..telemetry.metrics import Call, Stages
from . import bodies, trust_trials
from .networks import Served, Service
from .one_pass import Ask, run, together

# Seconds that a refused body is read on for, so that a connection cut in mid-send does not lose the refusal.
_LINGER_S: Final = 2.0
# Seconds that the rest of a body is read on for after the deadline.
_LATE_BODY_S: Final = 0.5
# Writing so many classes takes microseconds. Drawing a segmentation takes milliseconds.
_FEW: Final = 20

T = TypeVar("T")
Asked = TypeVar("Asked", bound=Options)


class Route(ABC, Generic[Asked, T]):
    """What a route adds to the flow: the passes that a request asks for, and how their outcomes are written.

    One object serves one request. ``T`` is what is written of one pass.
    """

    # Whether the body may have any Content-Type.
    any_type: ClassVar[bool] = False
    # Whether all outcomes make one answer, which is drawn in the pool. Otherwise each is drawn as soon as it is there.
    one_answer: ClassVar[bool] = False
    # The most milliseconds that the request's protocol gives it.
    longest_ms: float = math.inf
    # How many passes run first, because their outcomes decide the plans of the others.
    aims: int = 0

    async def read(self, request: Request, limits: bodies.Limits, hold: Callable[[int], None]) -> bodies.Body:
        """The body of the request; ``hold`` is called with the size of each chunk. Raises what ``bodies.read`` does."""
        return await bodies.read(request, limits, hold)

    @abstractmethod
    def asks(self, body: bodies.Body, options: Asked) -> Sequence[Ask]:
        """The passes. ``options`` are those of the query, and of the body over them. Raises PellucidError."""

    def aimed(self, ask: Ask, first: Sequence[T]) -> Plan:
        """The plan of a pass that waited for the first ones. Raises PellucidError."""
        return ask.plan

    @abstractmethod
    def written(self, ask: Ask, image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted] = ()) -> T:
        """What the reply says of one pass. ``trusted``: how far each map can be trusted, where that was tried."""

    async def failed(self, number: int, ask: Ask, error: Exception) -> T:
        """What the reply says of a pass that failed beside others. Raises an error to stop the others."""
        raise error.about(f"Image {number}") if isinstance(error, PellucidError) else error

    @abstractmethod
    def reply(self, asks: Sequence[Ask], written: Sequence[T]) -> Response:
        """The response, of what was written of each pass."""


async def serve(request: Request, service: Service, options: Asked, route: Route[Asked, Any]) -> Response:
    """The response to a request. ``options`` are those of the query. Raises PellucidError, ClientDisconnect."""
    arrived = time.monotonic()
    caller.set(getattr(request.state, "caller", ""))
    if not service.ready:
        await bodies.discard_rest(request, service.limits, _LINGER_S)
        raise Draining("The service is starting up or shutting down.")

    def deadline_by(chosen_ms: int | None) -> float:
        return arrived + min(chosen_ms or service.timeout_ms, service.timeout_ms, route.longest_ms) / 1000

    try:
        announced = bodies.announced(request, service.limits, any_type=route.any_type)
    except ContentTooLarge as error:
        if "expect" not in request.headers:  # such a client sends no body before it is asked to
            await bodies.discard_rest(request, service.limits, _LINGER_S)
        error.headers["Connection"] = "close"  # what is left of the body is not read
        raise
    # Admit: the place holds bytes as they come, and images once they are known.
    with service.admission.enter(announced) as place:
        # Read.
        body = await _read(request, service.limits, place, deadline_by(options.timeout_ms), route)
        # Ask.
        options = options.merged(body.fields)
        # Pictures among the options are megabytes of base64, which the event loop does not decode.
        on_loop = all(getattr(options, name, None) is None for name in bodies.FILE_OPTIONS)
        asks = route.asks(body, options) if on_loop else await asyncio.to_thread(route.asks, body, options)
        deadline = deadline_by(options.timeout_ms)
        reference = None if on_loop else await asyncio.to_thread(_reference, options, asks[0].network)
        every = [*asks, *([reference] if reference else [])]
        await _find_tiles(every, service.limits)
        place.hold(images=sum(ask.tiles for ask in every), size=sum(ask.picture_bytes for ask in every))
        times = [ask.times for ask in asks]
        call: Call = request.state.call
        call.model, call.stages = asks[0].network.spec.name, times
        # Forecast.
        with _expected(service.forecast, every, deadline) as answered:
            async with connected(request):
                # Run each.
                most = service.timeout_ms
                advice = (
                    ", or for a longer `timeout_ms`"
                    if (options.timeout_ms or most) < most
                    else f"; this service allows no more than {most} ms (PELLUCID_TIMEOUT_MS)"
                )
                passes = _Passes(route, asks, answered, deadline, service.forecast, advice)
                if reference:
                    await passes.liken_to(reference)
                written = await passes.written()
                # Write.
                if route.one_answer:
                    with times[0].timed("render"):
                        response = await _by(deadline, asks[0].network.in_pool(route.reply, asks, written))
                elif on_loop:
                    response = route.reply(asks, written)
                else:
                    response = await asyncio.to_thread(route.reply, asks, written)
    if timing := Stages.header(times):
        response.headers["Server-Timing"] = timing
    return response


def _reference(options: Options, network: Served) -> Ask | None:
    """The pass over the picture that others are compared with, if there is one. Raises MalformedRequest."""
    text = options.reference if isinstance(options, TargetOptions) else None
    if text is None or network.spec.output.kind != "embedding":  # no part of the reply needs it
        return None
    plan, asked = Plan(reproducible=options.provenance), PredictOptions(view=options.view, detail=options.detail)
    return Ask(bodies.json_image(text, "reference"), network, plan, asked, "The reference")


async def _find_tiles(asks: Sequence[Ask], limits: bodies.Limits) -> None:
    """Find the tiles of each image that is seen whole. Raises ContentTooLarge: each counts as an image."""
    whole = [ask for ask in asks if ask.options.view == "whole"]
    if not whole:
        return

    def find() -> None:
        for ask in whole:
            ask.find_tiling()

    await whole[0].network.in_pool(find)
    tiles = sum(ask.tiles for ask in asks)
    if tiles > len(asks) and tiles > limits.images:
        raise ContentTooLarge(
            f"The network sees the {len(asks)} images in {tiles} tiles. Each counts as an image, and at most "
            f"{limits.images} are allowed in one request."
        )


async def _read(
    request: Request, limits: bodies.Limits, place: Place, deadline: float, route: Route[Any, Any]
) -> bodies.Body:
    """The body, whole by the deadline, its bytes held in ``place`` as they come."""
    try:
        async with asyncio.timeout(max(0, deadline - time.monotonic())):
            return await route.read(request, limits, lambda size: place.hold(size=size))
    except TimeoutError as error:
        with suppress(RuntimeError):  # raised where it is whole after all, but not taken apart yet
            await bodies.discard_rest(request, limits, _LATE_BODY_S)
        raise DeadlineExceeded(
            "The body did not arrive in full by the deadline.", headers={"Connection": "close"}
        ) from error


@contextmanager
def _expected(forecast: Forecast, asks: Sequence[Ask], deadline: float) -> Iterator[list[Callable[[float], None]]]:
    """Count the passes among those in flight. Yields, for each, what to call once it is answered.

    Passes that share a plan and a size are admitted together. Raises TooLate, EngineDown.
    """
    with ExitStack() as stack:
        answered: list[Callable[[float], None]] = []
        for _, group in groupby(asks, key=lambda ask: (id(ask.plan), ask.tiling and ask.tiling.tile)):
            sharing = [*group]
            first = sharing[0]
            images = sum(ask.passes for ask in sharing)
            passed = stack.enter_context(forecast.expect(first.network.worker, first.sized, images, deadline))
            answered += [passed if ask.passes == 1 else partial(_all_passed, passed, ask.passes) for ask in sharing]
        yield answered


def _all_passed(passed: Callable[[float], None], passes: int, picture_s: float) -> None:
    """Call ``passed`` for each pass of an image, whose picture took so many seconds."""
    passed(picture_s)
    for _ in range(passes - 1):
        passed(0.0)


@dataclass(frozen=True, slots=True)
class _Passes(Generic[T]):
    """The passes of a request, until ``deadline``. ``trying`` lets the maps of one image be tried at a time.

    ``advice`` ends the refusal of trials that take longer.
    """

    route: Route[Any, T]
    asks: Sequence[Ask]
    answered: Sequence[Callable[[float], None]]
    deadline: float
    forecast: Forecast
    advice: str
    trying: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    async def liken_to(self, reference: Ask) -> None:
        """Run the reference's pass first, and give its embedding to all plans."""
        ran = run(reference, lambda _, __, outcome: outcome, self.deadline, in_engine_thread=True)
        try:
            outcome = await _by(self.deadline, ran)
        except PellucidError as error:
            raise error.about(reference.name) from None
        self.answered[-1](0.0)
        for ask in self.asks:
            ask.plan = liken(ask.plan, outcome)

    async def written(self) -> list[T]:
        """What is written of each pass. If one of several fails, the route decides whether the others go on."""
        if len(self.asks) == 1:
            return [await _by(self.deadline, self._one(0))]
        first = self.route.aims
        written: list[T] = await together(*map(self._beside_others, range(first))) if first else []
        for ask in self.asks[first:] if first else ():
            ask.plan = self.route.aimed(ask, written)
        return written + await together(*map(self._beside_others, range(len(written), len(self.asks))))

    async def _beside_others(self, number: int) -> T:
        try:
            return await _by(self.deadline, self._one(number))
        except Exception as error:
            return await self.route.failed(number, self.asks[number], error)

    async def _one(self, number: int) -> T:
        ask, route = self.asks[number], self.route
        try:
            if ask.options.design:
                return await trust_trials.tried(
                    ask, route.written, self.forecast, self.deadline, self.trying, self._untried, self.advice
                )
            listed = ask.plan.predicts_alone and ask.side is None and ask.network.spec.output.kind != "dense"
            in_engine_thread = route.one_answer or (listed and ask.plan.top_k <= _FEW)
            return await run(ask, route.written, self.deadline, in_engine_thread=in_engine_thread)
        except PellucidError as error:
            if ask.name:
                raise error.about(ask.name) from None
            raise
        finally:
            ask.times.over = True
            self.answered[number](sum(ask.times.seconds.get(stage, 0.0) for stage in ("decode", "render")))

    def _untried(self) -> int:
        """How many images' maps are still to be tried; an image that failed has none."""
        return sum("trust" not in ask.times.seconds and not ask.times.over for ask in self.asks)


async def _by(deadline: float, work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(max(0, deadline - time.monotonic())):
            return await work
    except TimeoutError as error:
        raise DeadlineExceeded("The answer was not ready by the deadline.") from error
