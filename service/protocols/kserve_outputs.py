"""The output tensors of the Open Inference Protocol: names, plan and values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final

import numpy as np

from pellucid.errors import InvalidOption, UnknownName
from pellucid.lookup import layer_name
from pellucid.network.spec import OutputKind
from pellucid.parts.explain import ExplainOptions, Part
from pellucid.parts.option_types import Options
from pellucid.parts.targets import LayerOptions
from pellucid.types import Outcome, Plan, Tap

from ..flow.networks import Served
from . import kserve_tensors as tensors

GATE: Final = "gate:"
# The default outputs of each kind of network.
_DEFAULTS: Final[dict[OutputKind, tuple[str, ...]]] = {
    "softmax": ("classes", "labels", "probabilities", "logits"),
    "sigmoid": ("classes", "labels", "probabilities", "logits"),
    "linear": ("labels", "values"),
    "dense": ("classes", "labels", "shares", "segmentation"),
    "embedding": ("embedding",),
}
# Outputs with a number for each class -> the field of a prediction. Quantities have a label each, and are all sent.
_OF_ALL_CLASSES: Final = {"probabilities": "probability", "logits": "logit", "values": "logit", "shares": "share"}
_CLASSIFIED: Final = ("probabilities", "logits")
_OF_THE_MAP: Final = ("heat_map", "heat_map_classes")
# Other outputs are FP32.
_DATATYPES: Final = {"classes": "INT64", "labels": "BYTES", "segmentation": "UINT8", "heat_map_classes": "INT64"}
# The most numbers in all activations of one reply.
_MOST_ACTIVATIONS: Final = 4_000_000


@dataclass(frozen=True, slots=True)
class Output:
    """An output. ``shape`` is without the batch axis; -1 depends on the request."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A requested output. ``top`` is the number of classes in Triton's classification extension."""

    output: Output
    binary: bool
    top: int = 0


def of_network(served: Served) -> list[Output]:
    """All outputs that a request can name."""
    output, names = served.spec.output, _DEFAULTS[served.spec.output.kind]
    if served.network.default_layer:  # the map of an embedding needs a reference, which no tensor can hold
        names += ("activation",) if output.kind == "embedding" else (*_OF_THE_MAP, "activation")
    shapes = {
        **dict.fromkeys(_OF_ALL_CLASSES, (len(served.spec.labels),)),
        **dict.fromkeys(("classes", "labels", "heat_map_classes"), (-1,)),
        **dict.fromkeys(("heat_map", "activation"), (-1, -1, -1)),
        "segmentation": output.shape[1:],
        "embedding": output.shape,
    }
    found = [Output(name, _DATATYPES.get(name, "FP32"), shapes[name]) for name in names]
    return found + [Output(GATE + gate.layer, "FP32", (gate.shape[0],)) for gate in served.network.gates]


def wanted(asked: Sequence[tensors.Wanted], binary: bool, served: Served) -> tuple[Wanted, ...]:
    """The outputs of a request; ``binary`` is its ``binary_data_output``. Raises UnknownName and InvalidOption."""
    known = {output.name: output for output in of_network(served)}
    if not asked:
        return tuple(Wanted(known[name], binary) for name in _DEFAULTS[served.spec.output.kind])
    found = {}
    for each in asked:
        if each.name not in known:
            raise UnknownName.among("output", each.name, [*known])
        found[each.name] = _wanted(known[each.name], dict(each.parameters), binary)
    return tuple(found.values())


def _wanted(output: Output, parameters: dict[str, object], binary: bool) -> Wanted:
    binary = parameters.pop("binary_data", binary) is True
    top = parameters.pop("classification", 0)
    if not isinstance(top, int) or isinstance(top, bool) or top < 0:
        raise InvalidOption(f"{output.name}: classification must be a number of classes.")
    if parameters or (top and output.name not in _CLASSIFIED):
        raise InvalidOption(
            f"{output.name}: the parameters of an output are binary_data and, of {' and '.join(_CLASSIFIED)}, "
            "classification."
        )
    return Wanted(output, binary, top)


def planned(served: Served, options: Options, asked: Sequence[Wanted], images: int) -> Plan:
    """The plan that computes the outputs. Raises UnknownName, Unexplainable, InvalidOption."""
    names = {each.output.name for each in asked}
    parts: list[Part] = ["predictions"]
    if names & {*_OF_THE_MAP}:
        parts.append("grad_cam")
    of_explain = ExplainOptions.model_validate({**options.model_dump(exclude_unset=True), "include": parts})
    plan = of_explain.asks(served, Plan())
    if names & {*_OF_ALL_CLASSES} or served.spec.output.kind == "linear":
        plan = replace(plan, top_k=max(plan.top_k, len(served.spec.labels)))
    if any(name.startswith(GATE) for name in names):
        plan = replace(plan, gates=True)
    if "activation" in names:
        assert isinstance(options, LayerOptions)
        layer = layer_name(options.layer or served.network.default_layer, served.network)
        shape = served.network.by_name[layer].shape
        if images * math.prod(shape) > _MOST_ACTIVATIONS:
            raise InvalidOption(
                f"The activation at {layer!r} has {math.prod(shape)} numbers for each image; at most "
                f"{_MOST_ACTIVATIONS} are sent in one reply. Ask for fewer images, or for a deeper layer."
            )
        plan = replace(plan, taps=(Tap(layer, tuple(range(shape[0]))),))
    return plan


def form(outcome: Outcome, asked: Sequence[Wanted], labels: Sequence[str], top_k: int) -> dict[str, tensors.Written]:
    """One image's part of each output."""
    return {each.output.name: _written(each, outcome, labels, top_k) for each in asked}


def _written(asked: Wanted, outcome: Outcome, labels: Sequence[str], top_k: int) -> tensors.Written:
    output, binary = asked.output, asked.binary
    if asked.top:
        # All classes, sorted by probability.
        best = outcome.predictions[: asked.top]
        score = attrgetter(_OF_ALL_CLASSES[output.name])
        texts = [f"{score(each):f}:{each.index}:{labels[each.index]}" for each in best]
        return tensors.written(texts, "BYTES", binary)
    if output.name == "labels":
        return tensors.written([labels[each.index] for each in outcome.predictions[:top_k]], "BYTES", binary)
    return tensors.written(_values(output.name, outcome, len(labels), top_k), output.datatype, binary)


def _values(name: str, outcome: Outcome, classes: int, top_k: int) -> np.typing.NDArray[Any]:
    if name == "classes":
        return np.array([each.index for each in outcome.predictions[:top_k]], np.int64)
    if name in _OF_ALL_CLASSES:
        scores = np.zeros(classes, np.float32)  # a segmentation predicts only classes that it has somewhere
        score = attrgetter(_OF_ALL_CLASSES[name])
        scores[[each.index for each in outcome.predictions]] = [*map(score, outcome.predictions)]
        return scores
    if name == "embedding" and outcome.embedding is not None:
        return outcome.embedding
    if name == "segmentation" and outcome.segmentation is not None:
        return outcome.segmentation
    if name == "heat_map":
        return np.stack([explanation.heat for explanation in outcome.explanations])
    if name == "heat_map_classes":
        return np.array([explanation.target.index for explanation in outcome.explanations], np.int64)
    if name == "activation":
        return outcome.maps[0].values
    return next(gate.weights for gate in outcome.gates if GATE + gate.layer == name)
