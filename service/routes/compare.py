"""Two classes, two pictures or two networks beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from pellucid.errors import InvalidOption
from pellucid.parts import result
from pellucid.parts.compare import (
    CompareOptions,
    Kind,
    SideOutcome,
    comparison_json,
    comparison_sheet,
    counterpart,
    kind_of,
    naming,
    sides,
)
from pellucid.parts.figures import figure
from pellucid.parts.targets import liken
from pellucid.parts.trust import Trusted
from pellucid.types import DecodedImage, Outcome, Plan

from ..flow.bodies import Body
from ..flow.networks import Service
from ..flow.one_pass import Ask
from ..flow.reply import FIGURES, JSON, negotiate
from ..flow.serve import Route


class Comparison(Route[CompareOptions, SideOutcome]):
    """Two passes that make one answer, or one pass for two classes of one picture. The first error is the answer's."""

    one_answer = True

    def __init__(self, request: Request, service: Service) -> None:
        """Raises NotAcceptable."""
        self._media_type = negotiate(", ".join(request.headers.getlist("accept")), *FIGURES)
        self._request_id: str = request.state.request_id
        self._service = service

    def asks(self, body: Body, options: CompareOptions) -> list[Ask]:
        """The sides. If no class is named, the second explains the class of the first."""
        self._options = options
        self._kind: Kind = kind_of(options, len(body.uploads))
        first = self._service.network(options.model)
        second = self._service.network(options.against_model) if self._kind == "models" else first
        if self._kind == "models" and second is first:
            raise InvalidOption(f"against_model: {first.spec.name!r} is the first network already: name another.")
        self._embeds = first.spec.output.kind == "embedding"
        self.aims = 2 if self._embeds else int(not options.target)
        images, networks = (body.uploads[0], body.uploads[-1]), (first, second)
        side = None if self._media_type == JSON else figure.SOURCE_SIDE
        asks = [
            Ask(images[number], networks[number], plan, options, name, side=side)
            for number, (name, _, plan) in enumerate(sides(self._kind, first, second, options))
        ]
        if self._embeds:  # each side's embedding first, to be the other's reference
            self._likened = asks[::-1]
            asks = [Ask(ask.image, ask.network, Plan(), options, ask.name) for ask in asks] + asks
        return asks

    def aimed(self, ask: Ask, first: Sequence[SideOutcome]) -> Plan:
        """The plan for the class of the first side, or for the likeness to the other side."""
        if self._embeds:
            _, outcome = first[self._likened.index(ask)]
            return liken(ask.plan, outcome)
        _, outcome = first[0]
        with naming(ask.name):
            spec = self._service.network(self._options.model).spec
            target = counterpart(outcome.explanations[0].target.index, spec, ask.network.spec)
        return replace(ask.plan, targets=(target,))

    def written(self, ask: Ask, image: DecodedImage, outcome: Outcome, trusted: Sequence[Trusted] = ()) -> SideOutcome:
        """A side as it is: both are drawn together."""
        return image, outcome

    async def failed(self, number: int, ask: Ask, error: Exception) -> SideOutcome:
        """Each ask has a name of its own already."""
        raise error

    def reply(self, asks: Sequence[Ask], written: Sequence[SideOutcome]) -> Response:
        shown = slice(2 if self._embeds else 0, None)
        networks, seen, options = [ask.network for ask in asks[shown]], written[shown], self._options
        models = [network.spec for network in networks]
        if self._media_type != JSON:
            sheet = comparison_sheet(self._kind, models, seen, options, networks[0].methods)
            drawn = figure.drawn(sheet, options.theme, self._media_type)
            return Response(drawn.data, media_type=drawn.media_type)
        found = {
            "model": models[0].name,
            "request_id": self._request_id,
            "compare": comparison_json(self._kind, models, seen, options),
        }
        return Response(result.as_json(found), media_type=JSON)
