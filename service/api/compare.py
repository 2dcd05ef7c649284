"""Two classes, two pictures or two networks beside each other -> the reply's ``compare``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from pellucid.errors import InvalidOption, PellucidError
from pellucid.parts import result
from pellucid.parts.compare import Seen, compared, counterpart, kind_of, plan_of
from pellucid.parts.options import CompareOptions
from pellucid.parts.plan import class_index
from pellucid.types import Outcome
from service.api import intake, reply
from service.api.handler import Service, serve
from service.api.joint import Joint, Side
from service.api.pipeline import Pipeline

_NAMES: Final = {"pictures": "picture", "models": "network"}


async def comparison(request: Request, service: Service, options: CompareOptions) -> Response:
    """The reply to a POST of one picture or two."""
    reply.negotiate(", ".join(request.headers.getlist("accept")), pictures=False)
    request_id: str = request.state.request_id

    def order(body: intake.Intake) -> Joint:
        merged = options.merged(body.fields)
        return _joint(service, merged, body, request_id)

    return await serve(request, service, options.timeout_ms, intake.read, order)


def _joint(service: Service, options: CompareOptions, body: intake.Intake, request_id: str) -> Joint:
    kind = kind_of(options, len(body.uploads))
    first = service.pipeline(options.model)
    second = service.pipeline(options.against_model) if kind == "models" else first
    if kind == "models" and second is first:
        raise InvalidOption(f"against_model: {first.spec.name!r} is the first network already: name another.")
    targets = [class_index(name, first.spec) for name in options.target]
    if len(targets) > len(set(targets)):
        raise InvalidOption(f"target: Both name the class {targets[0]} ({first.spec.labels[targets[0]]}).")
    images = [body.uploads[0], body.uploads[-1]]
    sides = []
    for number, pipeline in enumerate((first, second)[: 1 if kind == "classes" else 2]):
        name = f"The {'second' if number else 'first'} {_NAMES[kind]}" if kind != "classes" else "The picture"
        with _naming(name if kind == "models" else ""):
            chosen = [counterpart(index, first.spec, pipeline.spec) for index in targets]
            plan = plan_of(pipeline, options, _layer(options, pipeline, first), chosen)
        sides.append(Side(name, pipeline, plan, images[number]))

    def follows(side: Side, outcome: Outcome) -> int:
        with _naming(side.name):
            return counterpart(outcome.explanations[0].target.index, first.spec, side.pipeline.spec)

    def write(seen: Sequence[Seen]) -> Response:
        found = {
            "model": first.spec.name,
            "request_id": request_id,
            "compare": compared(kind, [side.pipeline.spec for side in sides], seen, options),
        }
        return Response(result.as_json(found), media_type=reply.JSON)

    return Joint(tuple(sides), write, None if targets else follows, options.timeout_ms)


@contextmanager
def _naming(side: str) -> Iterator[None]:
    """Let an error say which side it is of, where that is not plain."""
    try:
        yield
    except PellucidError as error:
        if side:
            raise error.about(side) from None
        raise


def _layer(options: CompareOptions, pipeline: Pipeline, first: Pipeline) -> str | None:
    return options.layer if pipeline is first else options.against_layer or options.layer
