"""KServe's protocol v2, the Open Inference Protocol, which Triton and its clients speak."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from fastapi.types import DecoratedCallable
from pydantic import Field

from pellucid.decode.tensor import from_normalised, from_values
from pellucid.errors import InvalidOption, UnknownName
from pellucid.parts.option_types import OneName
from pellucid.parts.predictions import PredictOptions
from pellucid.parts.targets import LayerOptions
from pellucid.parts.trust import Trusted
from pellucid.types import DecodedImage, Outcome, Prepared, Upload

from ..flow import bodies
from ..flow.networks import Served, Service
from ..flow.one_pass import Ask
from ..flow.serve import Route, serve
from ..http.route import OptionsRoute
from . import documented
from . import kserve_outputs as outputs
from . import kserve_tensors as tensors
from .kserve_v1 import ModelName

_EXTENSIONS: Final = ["binary_tensor_data", "classification"]


class InferOptions(PredictOptions, LayerOptions):
    """Options of /v2/models/{name}/infer, in its `parameters` or in the query."""

    # One tensor holds the maps of one layer by one method.
    layer: OneName | None = Field(
        None,
        description="Layer to explain at, by a name from /v1/models/{name}. Default: the last layer with a spatial "
        "extent.",
        examples=["head", "blocks.10"],
    )
    method: OneName = Field(
        "grad-cam", description="Method of the heat map, by a name from /v1/models/{name}.", examples=["grad-cam"]
    )


def router(service: Service) -> APIRouter:
    """Health, metadata and inference."""
    routes = APIRouter(tags=["protocols"])
    inference = APIRouter(route_class=OptionsRoute)

    def get(
        path: str, name: str, summary: str, replies: str, responses: documented.Responses
    ) -> Callable[[DecoratedCallable], DecoratedCallable]:
        return routes.get(
            f"/v2{path}",
            name=f"kserve_v2_{name}",
            summary=f"KServe v2: {summary}",
            response_description=replies,
            responses=responses,
        )

    @get("", "server", "the server", "The server.", documented.SERVER)
    async def server() -> documented.ServerMetadata:
        """Name, version, and the supported extensions of the protocol."""
        return server_metadata()

    @get("/health/live", "live", "is the process alive?", "It is.", documented.LIVE)
    async def live() -> documented.Live:
        """An alias of /livez."""
        service.require_engines()
        return documented.Live(live=True)

    @get("/health/ready", "ready", "is it ready?", "It does.", documented.READY)
    async def ready() -> documented.Ready:
        """An alias of /readyz."""
        service.require_ready()
        return documented.Ready(ready=True)

    @get("/models/{name}", "model", "a network's tensors", "The network's tensors.", documented.MODEL)
    async def model(name: ModelName) -> documented.NetworkMetadata:
        """The inputs, of which a request gives one, and all outputs that it may ask for."""
        return metadata(service.addressed(name))

    @get("/models/{name}/ready", "model_ready", "is a network ready?", "It does.", documented.MODEL_READY)
    async def model_ready(name: ModelName) -> documented.NetworkReady:
        """Ready as long as the service is, and this network answers."""
        service.require_model_ready(name)
        return documented.NetworkReady(name=name, ready=True)

    @inference.post(
        "/v2/models/{name}/infer",
        name="kserve_v2_infer",
        summary="KServe v2: infer",
        response_description="Each output as a tensor. With binary outputs: JSON, then their bytes, as in the request.",
        responses=documented.INFER,
        openapi_extra=documented.INFER_BODY,
    )
    async def infer(request: Request, options: Annotated[InferOptions, Query()], name: ModelName) -> Response:
        """Images as one tensor, answers as tensors. Without `outputs`, these are about the classes.

        Either `image` (BYTES, [N]: the files), `pixels` ([N, H, W, channels], of the network's size: UINT8, or FP32 in
        the network's range where its depth is float32) or `normalized` (FP32, [N, channels, H, W]: such pixels after
        the network's own normalisation). One image's failure is the request's.
        """
        return await serve(request, service, options, Infer(service.addressed(name)))

    routes.include_router(inference)
    return routes


class Infer(Route[InferOptions, dict[str, tensors.Written]]):
    """Images in one tensor, outcomes in one tensor for each output."""

    any_type = True

    def __init__(self, served: Served) -> None:
        self.served = served

    async def read(self, request: Request, limits: bodies.Limits, hold: Callable[[int], None]) -> bodies.Body:
        body = await bodies.whole(request, limits, hold)
        return await asyncio.to_thread(self._read, body, request.headers.get(tensors.HEADER), limits)

    def _read(self, body: bytes, header: str | None, limits: bodies.Limits) -> bodies.Body:
        channels, height, width = self.served.spec.preprocess.shape
        # Beyond the limit on values, JSON may hold the pixels of one image; clients send more images as bytes.
        said, behind = tensors.parse(body, header, limits, height * (width + 1) * (channels + 1))
        return self.understood(said, behind, limits)

    def understood(self, said: tensors.InferRequest, behind: bytes, limits: bodies.Limits) -> bodies.Body:
        """The images and options of a request, and of this object its outputs. Raises PellucidError."""
        (tensor,) = said.inputs
        uploads = _images(tensor, behind, limits, self.served)
        bodies.require_images(uploads, limits)
        parameters = dict(said.parameters)
        binary = parameters.pop("binary_data_output", False)
        if "timeout" in parameters:  # Triton's, in microseconds
            parameters["timeout_ms"] = _milliseconds(parameters.pop("timeout"))
        self._outputs = outputs.wanted(said.outputs, binary is True, self.served)
        self.request_id = said.id
        return bodies.Body(uploads, parameters)

    def asks(self, body: bodies.Body, options: InferOptions) -> list[Ask]:
        """One pass for each image, all by one plan."""
        options = options.addressed_to(self.served.spec.name)
        if options.view == "whole" or (options.view == "squash" and isinstance(body.uploads[0], Prepared)):
            raise InvalidOption(
                "view: The images of a tensor have one size, and pixels are the network's input already. Choose "
                "view=squash for files, or a route under /v1 for view=whole."
            )
        self._top_k = options.top_k
        plan = outputs.planned(self.served, options, self._outputs, len(body.uploads))
        return [Ask(image, self.served, plan, options) for image in body.uploads]

    def written(
        self, ask: Ask, image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted] = ()
    ) -> dict[str, tensors.Written]:
        return outputs.form(outcome, self._outputs, self.served.spec.labels, self._top_k)

    def reply(self, asks: Sequence[Ask], written: Sequence[dict[str, tensors.Written]]) -> Response:
        return tensors.response(self.served.spec.name, self.request_id, written)


def _images(
    tensor: tensors.InputTensor, behind: bytes, limits: bodies.Limits, served: Served
) -> tuple[Upload | Prepared, ...]:
    inputs = _inputs(served)
    if tensor.name not in inputs:
        raise UnknownName.among("input", tensor.name, [*inputs])
    datatype, _ = inputs[tensor.name]
    if tensor.datatype != datatype:
        raise InvalidOption(f"The datatype of {tensor.name!r} is {datatype}, not {tensor.datatype!r}.")
    if tensor.datatype == "BYTES":
        return tuple(map(Upload, tensors.files(tensor, behind, limits.images)))
    if len(tensor.shape) == 4 and tensor.shape[0] > limits.images:  # before they are unpacked
        raise bodies.too_many(limits)
    values = tensors.numbers(tensor, behind)
    read = from_values if tensor.name == "pixels" else from_normalised
    return read(values, served.spec.preprocess)


def _milliseconds(microseconds: Any) -> int:
    if not isinstance(microseconds, int) or isinstance(microseconds, bool) or microseconds < 1:
        raise InvalidOption("timeout: Should be a whole number of microseconds, at least 1.")
    return math.ceil(microseconds / 1000)


def _inputs(served: Served) -> dict[str, tuple[str, list[int]]]:
    """The inputs by name, each with its datatype and shape."""
    spec = served.spec.preprocess
    channels, height, width = spec.shape
    return {
        "image": ("BYTES", [-1]),
        "pixels": ("UINT8" if spec.depth == "uint8" else "FP32", [-1, height, width, channels]),
        "normalized": ("FP32", [-1, channels, height, width]),
    }


def server_metadata() -> documented.ServerMetadata:
    """The server's name, version and extensions."""
    return documented.ServerMetadata(name="pellucid", version=version("pellucid"), extensions=_EXTENSIONS)


def metadata(served: Served) -> documented.NetworkMetadata:
    """The network's inputs and outputs."""
    tensor = documented.TensorMetadata
    return documented.NetworkMetadata(
        name=served.spec.name,
        platform="pellucid",
        inputs=[
            tensor(name=name, datatype=datatype, shape=shape) for name, (datatype, shape) in _inputs(served).items()
        ],
        outputs=[
            tensor(name=output.name, datatype=output.datatype, shape=[-1, *output.shape])
            for output in outputs.of_network(served)
        ],
    )
