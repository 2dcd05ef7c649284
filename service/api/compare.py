"""Two classes, two pictures or two networks beside each other -> the reply's ``compare``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from pellucid.errors import InvalidOption, PellucidError
from pellucid.network.spec import ModelSpec
from pellucid.parts import result, side_by_side
from pellucid.parts.classes import prediction
from pellucid.parts.options import CompareOptions, GradCamOptions
from pellucid.parts.plan import class_index
from pellucid.trust.ranks import spearman
from pellucid.types import Box, Explanation, GateReading, Outcome, Plan
from service.api import intake, reply
from service.api.handler import Service, planned, serve
from service.api.joint import Joint, Seen, Side
from service.api.pipeline import Pipeline

Kind = Literal["classes", "pictures", "models"]
_NAMES: Final = {"pictures": "picture", "models": "network"}
# How many channels are named as those that changed most.
_NAMED: Final = 10


async def comparison(request: Request, service: Service, options: CompareOptions) -> Response:
    """The reply to a POST of one picture or two."""
    reply.negotiate(", ".join(request.headers.getlist("accept")), pictures=False)
    request_id: str = request.state.request_id

    def order(body: intake.Intake) -> Joint:
        merged = options.merged(body.fields)
        return _joint(service, merged, body, request_id)

    return await serve(request, service, options.timeout_ms, intake.read, order)


def _joint(service: Service, options: CompareOptions, body: intake.Intake, request_id: str) -> Joint:
    kind = _kind(options, len(body.uploads))
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
            chosen = [_counterpart(index, first.spec, pipeline.spec) for index in targets]
            plan = _plan(pipeline, options, _layer(options, pipeline, first), chosen)
        sides.append(Side(name, pipeline, plan, images[number]))

    def follows(side: Side, outcome: Outcome) -> int:
        with _naming(side.name):
            return _counterpart(outcome.explanations[0].target.index, first.spec, side.pipeline.spec)

    def write(seen: Sequence[Seen]) -> Response:
        found = {
            "model": first.spec.name,
            "request_id": request_id,
            "compare": _compared(kind, sides, seen, options),
        }
        return Response(result.as_json(found), media_type=reply.JSON)

    return Joint(tuple(sides), write, None if targets else follows, options.timeout_ms)


def _kind(options: CompareOptions, images: int) -> Kind:
    """What is compared. Raises InvalidOption, which says what can be."""
    if options.provenance:
        raise InvalidOption("provenance: A comparison does not carry it; ask /v1/grad-cam for each side.")
    targets, networks = len(options.target), 2 if options.against_model else 1
    if options.against_layer and networks == 1:
        raise InvalidOption("against_layer: It is of the second network: name that in `against_model`.")
    if targets <= 1 and (images, networks) in ((1, 2), (2, 1)):
        return "models" if networks == 2 else "pictures"
    if (images, networks, targets) == (1, 1, 2):
        return "classes"
    raise InvalidOption(
        f"Images: {images}, targets: {targets}, networks: {networks}. They can't be compared. Allowed are one image "
        "and two `target` (two classes), two images and at most one `target` (two pictures), and one image, "
        "`against_model` and at most one `target` (two networks)."
    )


@contextmanager
def _naming(side: str) -> Iterator[None]:
    """Let an error say which side it is of, where that is not plain."""
    try:
        yield
    except PellucidError as error:
        if side:
            raise error.about(side) from None
        raise


def _counterpart(index: int, spec: ModelSpec, other: ModelSpec) -> int:
    """The class of ``other`` that is ``spec``'s of that index: by its label, unless all labels are the same."""
    return index if other.labels == spec.labels else class_index(spec.labels[index], other)


def _layer(options: CompareOptions, pipeline: Pipeline, first: Pipeline) -> str | None:
    return options.layer if pipeline is first else options.against_layer or options.layer


def _plan(pipeline: Pipeline, options: CompareOptions, layer: str | None, targets: Sequence[int]) -> Plan:
    asked = GradCamOptions(
        target=[*map(str, targets)],
        layer=[layer] if layer else [],
        method=[options.method],
        samples=options.samples,
        signed=options.signed,
        max_side=options.max_side,
    )
    plan, _ = planned(pipeline, asked, frozenset({"grad_cam"}), 1)
    return replace(plan, top_k=options.top_k, gates=len(targets) < 2 and bool(pipeline.network.gates))


@dataclass(frozen=True, slots=True)
class _Found:
    """One side: what it is, what was seen, and of that the map that is compared."""

    side: Side
    seen: Seen
    explanation: Explanation

    @property
    def box(self) -> Box:
        return self.seen[0].box

    def as_json(self) -> dict[str, Any]:
        image, outcome = self.seen
        labels = self.side.pipeline.spec.labels
        return {
            "model": self.side.pipeline.spec.name,
            "image": result.image_info(image.info),
            "box": image.box,
            "predictions": [prediction(each, labels) for each in outcome.predictions],
            "target": prediction(self.explanation.target, labels),
            "layer": self.explanation.layer,
        }


def _compared(kind: Kind, sides: Sequence[Side], seen: Sequence[Seen], options: CompareOptions) -> dict[str, Any]:
    one, other = (
        _Found(side, each, explanation)
        for side, each in zip(sides, seen, strict=True)
        for explanation in each[1].explanations
    )
    heats = one.explanation.heat, other.explanation.heat
    if kind == "pictures":
        height, width = one.seen[0].pixels.shape[:2]
        box: Box = (0, 0, width, height)
    else:
        box = side_by_side.common(one.box, other.box)
        heats = side_by_side.over(heats[0], one.box, box), side_by_side.over(heats[1], other.box, box)
    return {
        "kind": kind,
        "method": options.method,
        "first": one.as_json(),
        "second": other.as_json(),
        "maps": {
            "frame": "input" if kind == "pictures" else "picture",
            **side_by_side.maps(*heats, box, options.max_side, options.signed, options.colormap),
        },
        "gates": _gates(one.seen[1].gates, other.seen[1].gates) if kind != "classes" else [],
    }


def _gates(first: Sequence[GateReading], second: Sequence[GateReading]) -> list[dict[str, Any]]:
    others = {(gate.layer, len(gate.weights)): gate.weights for gate in second}
    return [
        _gate(gate.layer, gate.weights, others[key])
        for gate in first
        if (key := (gate.layer, len(gate.weights))) in others
    ]


def _gate(layer: str, first: Any, second: Any) -> dict[str, Any]:
    differences = second - first
    magnitudes = np.abs(differences)
    order = np.argsort(-magnitudes, kind="stable")[:_NAMED].tolist()
    agreement = spearman(first, second)
    return {
        "layer": layer,
        "channels": len(differences),
        "differences": differences,
        "mean_absolute": magnitudes.mean(),
        "rank_agreement": None if agreement is None else np.float32(agreement),
        "most_changed": [
            {"channel": channel, "first": first[channel], "second": second[channel], "difference": differences[channel]}
            for channel in order
            if magnitudes[channel] > 0
        ],
    }
