"""The client: ``AsyncClient`` for programs with an event loop, and ``Client``, generated from it, for all others."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self, Unpack

import httpx
import tenacity

from pellucid.client import calls, retry
from pellucid.client.calls import Call, PictureRoute
from pellucid.client.figure import Figure, FigureRoute, FigureType, answers, remembering
from pellucid.client.heat_maps import NPZ, HeatMaps, read_npz
from pellucid.client.images import ImageSource
from pellucid.client.many import FAILURES, Counter, Explained, Progress, async_in_order, async_run
from pellucid.client.options import (
    AttentionOptions,
    ChannelOptions,
    CompareOptions,
    ExplainOptions,
    FeatureMapOptions,
    GradCamOptions,
    PredictOptions,
    WhatIfOptions,
)
from pellucid.schemas import (
    Answers,
    Attention,
    BoxChannels,
    CompareReply,
    Comparison,
    FeatureMap,
    GradCam,
    ModelDetail,
    ModelList,
    ModelSummary,
    Prediction,
    Reply,
    Result,
    WhatIf,
)


class AsyncExplainer(ABC):
    """What can be asked about one picture."""

    async def predict(self, image: ImageSource, **options: Unpack[PredictOptions]) -> Answers[Prediction]:
        """The most probable classes, best first."""
        result = await self._result("predict", image, options)
        return answers(result.predictions, result)

    async def attention(self, image: ImageSource, **options: Unpack[AttentionOptions]) -> Attention:
        """The weight of every channel."""
        return calls.present((await self._result("attention", image, options)).attention)

    async def feature_maps(self, image: ImageSource, **options: Unpack[FeatureMapOptions]) -> Answers[FeatureMap]:
        """The feature maps of some layers, a grid for each layer."""
        result = await self._result("feature-maps", image, options)
        return answers(result.feature_maps, result)

    async def grad_cam(self, image: ImageSource, **options: Unpack[GradCamOptions]) -> Answers[GradCam]:
        """Heat maps of the evidence, for each target."""
        result = await self._result("grad-cam", image, options)
        return answers(result.grad_cam, result)

    async def explain(self, image: ImageSource, **options: Unpack[ExplainOptions]) -> Result:
        """All of these from one forward pass, or the parts in ``include``; the others are None."""
        return await self._result("explain", image, options)

    async def channels(self, image: ImageSource, **options: Unpack[ChannelOptions]) -> BoxChannels:
        """The channels of a layer that respond to what is in the ``box`` of the picture."""
        return calls.present((await self._result("channels", image, options)).channels)

    async def what_if(self, image: ImageSource, **options: Unpack[WhatIfOptions]) -> WhatIf:
        """The predictions and maps before and after some channels are scaled or muted."""
        return calls.present((await self._result("what-if", image, options)).what_if)

    @abstractmethod
    async def _result(self, route: str, image: ImageSource, options: Mapping[str, Any]) -> Result: ...


class AsyncClient(AsyncExplainer):
    """A client of one service. Concurrent calls may share it.

    Every method raises ApiError for an error of the service, and httpx.TransportError if the service can't be reached.
    Methods that take an image raise OSError, TypeError or ValueError if it can't be read.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30,
        retries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """``timeout_s``: seconds for a call and its retries. The service gets it as ``timeout_ms`` and drops late work.

        ``retries``: how often a call is sent again, at most, after a temporary failure; see ``retry``.
        Raises ValueError for a ``url`` without a scheme.
        """
        self._timeout_s = timeout_s
        self._retries = retries
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(
            base_url=calls.address(url), headers=calls.headers(api_key), transport=transport, limits=limits
        )

    async def compare(
        self, image: ImageSource, other: ImageSource | None = None, **options: Unpack[CompareOptions]
    ) -> Comparison:
        """Two classes (two ``target``), two pictures (``image`` and ``other``), or two networks (``against_model``)."""
        images = calls.pair(image, other)
        call = await async_run(calls.post, "compare", images, options)
        found = calls.parsed(await self._send(call), CompareReply).compare
        return remembering(found, "compare", images, call.files, options, self.figure)

    async def picture(
        self,
        route: PictureRoute,
        image: ImageSource,
        *,
        media_type: str = "image/png",
        **options: Unpack[ExplainOptions],
    ) -> Figure:
        """The picture of a route as a file: a plot of the channels' weights, a grid, an overlay or a mask."""
        response = await self._post(route, (image,), options, media_type)
        return Figure(response.content, media_type)

    async def figure(
        self,
        image: ImageSource,
        other: ImageSource | None = None,
        *,
        route: FigureRoute = "explain",
        media_type: FigureType = "image/png",
        **options: Any,
    ) -> Figure:
        """The answer of ``explain``, ``what-if`` or ``compare`` as one figure, with the options of that method.

        Raises ValueError if the client is closed.
        """
        calls.require_open(self._http)
        calls.require_one(route, other)
        response = await self._post(route, calls.pair(image, other), options, media_type)
        return Figure(response.content, media_type)

    async def heat_maps(self, image: ImageSource, **options: Unpack[GradCamOptions]) -> HeatMaps:
        """The maps of /v1/grad-cam as arrays, in full precision. Needs numpy."""
        response = await self._post("grad-cam", (image,), options, NPZ)
        return read_npz(response.content)

    async def reply(self, route: str, image: ImageSource, **options: Any) -> Reply:
        """The whole reply of a route, for example /v1/grad-cam, with provenance if ``options`` have it."""
        return calls.parsed(await self._post(route.removeprefix("/v1/"), (image,), options), Reply)

    async def models(self) -> list[ModelSummary]:
        """The served networks."""
        return calls.parsed(await self._send(Call("GET", "/v1/models")), ModelList).models

    async def model(self, name: str) -> ModelDetail:
        """A network's layers, gates, labels and methods."""
        return calls.parsed(await self._send(calls.get_model(name)), ModelDetail)

    async def explain_many(
        self,
        images: Sequence[ImageSource],
        *,
        concurrency: int = 8,
        progress: Progress | None = None,
        **options: Unpack[ExplainOptions],
    ) -> AsyncGenerator[Explained, None]:
        """Each picture explained, in order, ``concurrency`` of them in flight or ready.

        A picture that fails has an ``error``, and the others go on. ``progress`` is called after each, by one thread at
        a time. Close the generator (``contextlib.aclosing``, ``contextlib.closing``) to stop before its end.
        """
        done = Counter(len(images), progress)

        async def one(image: ImageSource) -> Explained:
            try:
                explained = Explained(image, await self.explain(image, **options))
            except FAILURES as error:
                explained = Explained(image, error=error)
            done.count()
            return explained

        async with aclosing(async_in_order(one, images, concurrency)) as ordered:
            async for explained in ordered:
                yield explained

    async def _result(self, route: str, image: ImageSource, options: Mapping[str, Any]) -> Result:
        call = await async_run(calls.post, route, (image,), options)
        found = calls.result(await self._send(call))
        return remembering(found, route, (image,), call.files, options, self.figure)

    async def _post(
        self, route: str, images: tuple[ImageSource, ...], options: Mapping[str, Any], accept: str = "application/json"
    ) -> httpx.Response:
        return await self._send(await async_run(calls.post, route, images, options, accept))

    async def _send(self, call: Call) -> httpx.Response:
        ends = time.monotonic() + self._timeout_s
        async for attempt in tenacity.AsyncRetrying(**retry.policy(self._retries, self._timeout_s)):
            with attempt:
                return calls.checked(await self._http.request(**call.arguments(max(0.001, ends - time.monotonic()))))
        raise AssertionError("the last attempt returned or raised")

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
