"""Two classes, two pictures or two networks beside each other -> the reply's ``compare``."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from pellucid.errors import InvalidOption
from pellucid.parts import result
from pellucid.parts.compare import CompareOptions, Seen, compared, counterpart, kind_of, naming, sides
from pellucid.types import Outcome

from ..flow import body as intake
from ..flow import reply
from ..flow.joint import Joint, Side
from ..flow.serve import Service, serve


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
    images = [body.uploads[0], body.uploads[-1]]
    asked = sides(kind, first, second, options)
    pipelines = (first, second)
    joint = [Side(name, pipelines[number], plan, images[number]) for number, (name, _, plan) in enumerate(asked)]

    def follows(side: Side, outcome: Outcome) -> int:
        with naming(side.name):
            return counterpart(outcome.explanations[0].target.index, first.spec, side.pipeline.spec)

    def write(seen: Sequence[Seen]) -> Response:
        found = {
            "model": first.spec.name,
            "request_id": request_id,
            "compare": compared(kind, [side.pipeline.spec for side in joint], seen, options),
        }
        return Response(result.as_json(found), media_type=reply.JSON)

    return Joint(tuple(joint), write, None if options.target else follows, options.timeout_ms)
