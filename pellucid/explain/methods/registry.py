"""Every method by name, and what a plan's methods ask of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from pellucid.explain.evidence import Evidence, has_importance
from pellucid.explain.probe import Probe
from pellucid.network.spec import PIXELS
from pellucid.types import Floats, MethodSpec, Needs, Plan

OfEvidence = Callable[[Evidence], Floats]
OfProbe = Callable[[Probe], Floats]
Function = TypeVar("Function", OfEvidence, OfProbe)


@dataclass(frozen=True)
class Method:
    """A method that takes Evidence: it needs no more than one gradient."""

    spec: MethodSpec
    heat: OfEvidence


@dataclass(frozen=True)
class ProbingMethod:
    """A method that takes a Probe: it runs the network behind the layer again and again."""

    spec: MethodSpec
    heat: OfProbe


# Name -> method, in the order of their declarations.
METHODS: Final[dict[str, Method | ProbingMethod]] = {}


def method(
    name: str, *, title: str, needs: Needs, formula: str, paper: str, **more: bool
) -> Callable[[Function], Function]:
    """Declare the function below as a method. ``more`` are the further fields of MethodSpec."""
    spec = MethodSpec(name, title, needs, formula, paper, **more)

    def declare(heat: Function) -> Function:
        METHODS[name] = (Method if needs in ("activation", "gradient") else ProbingMethod)(spec, heat)  # type: ignore[arg-type]
        return heat

    return declare


def _places(plan: Plan) -> Iterable[tuple[MethodSpec, str]]:
    return ((METHODS[heat.method].spec, layer) for heat in plan.wanted for layer in heat.layers)


def differentiated(plan: Plan) -> tuple[str, ...]:
    """The layers at which one gradient of each class is needed: for heat maps, or the importance of channels."""
    layers = [layer for spec, layer in _places(plan) if spec.needs == "gradient"]
    if has_importance(plan) and plan.layer is not None:
        layers.append(plan.layer)
    return tuple(dict.fromkeys(layers))


def explained(plan: Plan) -> tuple[str, ...]:
    """The layers whose activation is needed; PIXELS among them where the whole network is run again."""
    layers = [*differentiated(plan)]
    if plan.edit is not None and plan.layer is not None:
        layers.append(plan.layer)
    for spec, layer in _places(plan):
        layers += [layer, PIXELS] if spec.needs == "network forwards" else [layer]
    return tuple(dict.fromkeys(layers))


def costly(plan: Plan) -> tuple[tuple[str, str], ...]:
    """(method, layer) of those whose passes others are not to pay for."""
    return tuple(dict.fromkeys((spec.name, layer) for spec, layer in _places(plan) if spec.needs != "gradient"))
