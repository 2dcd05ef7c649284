"""TorchServe's inference API: one image in, a mapping of labels to probabilities or an explanation out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from pellucid.errors import MalformedRequest
from pellucid.network.spec import ModelSpec, OutputKind
from pellucid.parts import result
from pellucid.parts.explain import ExplainOptions
from pellucid.parts.predictions import PredictOptions
from pellucid.parts.trust import Trusted
from pellucid.types import DecodedImage, Outcome, Upload

from ..flow import bodies, reply
from ..flow.networks import Served, Service
from ..flow.one_pass import Ask
from ..flow.serve import serve
from ..http.route import OptionsRoute
from . import documented
from .kserve_v1 import Addressed, ModelName

# The score of a prediction by kind of network; all others have a probability.
_SCORES: Final[dict[OutputKind, str]] = {"linear": "value", "dense": "share"}
Shown = Callable[[dict[str, Any], ModelSpec], dict[str, Any]]


def router(service: Service) -> APIRouter:
    """Aliases of /v1/predict and /v1/explain, by POST, and by PUT for ``curl -T``."""
    routes = APIRouter(tags=["protocols"], route_class=OptionsRoute)

    async def predict(request: Request, options: Annotated[PredictOptions, Query()], name: ModelName) -> Response:
        """An alias of /v1/predict for one image: the `top_k` most probable labels with their probabilities.

        Quantities have values instead, and classes of a segmentation have shares of the picture. An embedding is a list
        under `embedding`. A label that several classes share is followed by the class's index, as in `crane (134)`. PUT
        does the same.
        """
        return await serve(request, service, options, _OneImage(service.addressed(name), scores))

    async def explain(request: Request, options: Annotated[ExplainOptions, Query()], name: ModelName) -> Response:
        """An alias of /v1/explain for one image: the entry that /v1/explain has in `results`. PUT does the same."""
        return await serve(request, service, options, _OneImage(service.addressed(name), lambda entry, _: entry))

    for path, endpoint, summary, said in (
        ("/predictions/{name}", predict, "the most probable classes", "Probabilities by label, the highest first."),
        ("/explanations/{name}", explain, "explanation", "The explanation."),
    ):
        routes.add_api_route(path, endpoint, methods=["POST", "PUT"], include_in_schema=False)
        routes.add_api_route(  # for the document, which can't have one operation under two methods
            path,
            endpoint,
            name=f"torchserve_{endpoint.__name__}",
            methods=["POST"],
            summary=f"TorchServe: {summary}",
            response_description=said,
            responses=documented.TORCHSERVE,
            openapi_extra=documented.IMAGE_BODY,
        )
    return routes


def scores(entry: dict[str, Any], spec: ModelSpec) -> dict[str, Any]:
    """A result's predictions as TorchServe's image classifier gives them: a score by label."""
    if "embedding" in entry:
        return {"embedding": entry["embedding"]}
    shared, score = Counter(spec.labels), _SCORES.get(spec.output.kind, "probability")
    return {
        each["label"] if shared[each["label"]] == 1 else f"{each['label']} ({each['index']})": each[score]
        for each in entry["predictions"]
    }


class _OneImage(Addressed[bytes]):
    """What ``shown`` makes of the one image's entry."""

    def __init__(self, served: Served, shown: Shown) -> None:
        super().__init__(served)
        self._shown = shown

    async def read(self, request: Request, limits: bodies.Limits, hold: Callable[[int], None]) -> bodies.Body:
        """A form, or else the image's bytes: curl -T states no type, and curl --data-binary that it is a form."""
        if bodies.media_type_of(request) == bodies.MULTIPART:
            body = await bodies.multipart(request, limits, hold, "data")
        else:
            body = bodies.Body((Upload(await bodies.whole(request, limits, hold)),))
        if len(body.uploads) > 1:
            raise MalformedRequest(f"The form holds {len(body.uploads)} images; this route takes one.")
        bodies.require_images(body.uploads, limits)
        return body

    def written(self, ask: Ask, image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted] = ()) -> bytes:
        return result.as_json(self._shown(reply.entry(ask, image, outcome, trusted), self._served.spec))

    def reply(self, asks: Sequence[Ask], written: Sequence[bytes]) -> Response:
        (content,) = written
        return Response(content, media_type=reply.JSON)
