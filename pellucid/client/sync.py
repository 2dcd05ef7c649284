"""The client for programs without an event loop."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, Unpack

import httpx
import tenacity

from pellucid.client import calls, retry
from pellucid.client.calls import Call, PictureRoute
from pellucid.client.heat_maps import NPZ, HeatMaps, read_npz
from pellucid.client.images import ImageSource
from pellucid.client.many import FAILURES, Explained, Progress
from pellucid.client.options import (
    AttentionOptions,
    CompareOptions,
    ExplainOptions,
    FeatureMapOptions,
    GradCamOptions,
    PredictOptions,
    WhatIfOptions,
)
from pellucid.schemas import (
    Attention,
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


class Client:
    """Asks a service. Threads may share one.

    Every method raises ApiError for what the service refuses, httpx.TransportError where nobody answers, and, if it
    takes an image, OSError, TypeError or ValueError for one that can't be read.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30,
        retries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``timeout_s``: of a call with its retries; the service is told it, and does nothing for an answer too late.

        ``retries``: how often a call is tried again, at most, where it may be answered then; see ``retry``.
        """
        self._timeout_s = timeout_s
        self._retries = retries
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.Client(base_url=url, headers=calls.headers(api_key), transport=transport, limits=limits)

    def predict(self, image: ImageSource, **options: Unpack[PredictOptions]) -> list[Prediction]:
        """The most probable classes, best first."""
        return calls.predictions(self._send(calls.post("predict", image, options)))

    def attention(self, image: ImageSource, **options: Unpack[AttentionOptions]) -> Attention:
        """The weight of every channel."""
        return calls.attention(self._send(calls.post("attention", image, options)))

    def feature_maps(self, image: ImageSource, **options: Unpack[FeatureMapOptions]) -> list[FeatureMap]:
        """What the channels of some layers see, a grid for each layer."""
        return calls.feature_maps(self._send(calls.post("feature-maps", image, options)))

    def grad_cam(self, image: ImageSource, **options: Unpack[GradCamOptions]) -> list[GradCam]:
        """Where the evidence lies, for each target."""
        return calls.grad_cam(self._send(calls.post("grad-cam", image, options)))

    def explain(self, image: ImageSource, **options: Unpack[ExplainOptions]) -> Result:
        """All of these from one forward pass, or the parts that ``include`` names; others are None."""
        return calls.result(self._send(calls.post("explain", image, options)))

    def what_if(self, image: ImageSource, **options: Unpack[WhatIfOptions]) -> WhatIf:
        """What the network would have said, had some channels weighed more, less, or nothing."""
        return calls.what_if(self._send(calls.post("what-if", image, options)))

    def compare(
        self, image: ImageSource, other: ImageSource | None = None, **options: Unpack[CompareOptions]
    ) -> Comparison:
        """Two classes (two ``target``), two pictures (``image`` and ``other``), or two networks (``against_model``)."""
        return calls.comparison(self._send(calls.compare(image, other, options)))

    def picture(
        self,
        route: PictureRoute,
        image: ImageSource,
        *,
        media_type: str = "image/png",
        **options: Unpack[ExplainOptions],
    ) -> bytes:
        """A route's one picture as a file's bytes: the plot of the channels' weights, a grid, an overlay or a mask."""
        return self._send(calls.post(route, image, options, media_type)).content

    def heat_maps(self, image: ImageSource, **options: Unpack[GradCamOptions]) -> HeatMaps:
        """The maps of /v1/grad-cam as arrays, each number as it was computed. Needs numpy."""
        return read_npz((self._send(calls.post("grad-cam", image, options, NPZ))).content)

    def reply(self, route: str, image: ImageSource, **options: Any) -> Reply:
        """The whole reply of a route, as /v1/grad-cam, with its provenance where ``options`` ask for it."""
        return calls.parsed(self._send(calls.post(route.removeprefix("/v1/"), image, options)), Reply)

    def models(self) -> list[ModelSummary]:
        """The served networks."""
        return calls.parsed(self._send(Call("GET", "/v1/models")), ModelList).models

    def model(self, name: str) -> ModelDetail:
        """Everything in a network that has a name."""
        return calls.parsed(self._send(calls.get_model(name)), ModelDetail)

    def explain_many(
        self,
        images: Sequence[ImageSource],
        *,
        concurrency: int = 8,
        progress: Progress | None = None,
        **options: Unpack[ExplainOptions],
    ) -> Generator[Explained, None, None]:
        """Each picture explained, in order, ``concurrency`` of them in flight or waiting to be taken from here.

        What fails with one picture is its ``error``, and the others go on. ``progress`` is called as soon as one is
        done, in the thread that did it, by one at a time.
        """
        count, lock = itertools.count(1), threading.Lock()

        def one(image: ImageSource) -> Explained:
            try:
                explained = Explained(image, self.explain(image, **options))
            except FAILURES as error:
                explained = Explained(image, error=error)
            if progress:
                with lock:
                    progress(next(count), len(images))
            return explained

        with ThreadPoolExecutor(concurrency, thread_name_prefix="pellucid-client") as pool:
            rest = iter(images)
            ahead = deque(pool.submit(one, image) for image in itertools.islice(rest, concurrency))
            try:
                while ahead:
                    head = ahead.popleft().result()
                    ahead.extend(pool.submit(one, image) for image in itertools.islice(rest, 1))
                    yield head
            finally:
                for future in ahead:
                    future.cancel()

    def _send(self, call: Call) -> httpx.Response:
        ends = time.monotonic() + self._timeout_s
        for attempt in tenacity.Retrying(**retry.policy(self._retries, self._timeout_s)):
            with attempt:
                return calls.checked(self._http.request(**call.arguments(max(0.001, ends - time.monotonic()))))
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
