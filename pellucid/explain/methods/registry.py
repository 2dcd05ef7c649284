"""The registry of methods by name, and which layers a plan's methods need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from pellucid.explain.evidence import Attended, Evidence, has_importance
from pellucid.explain.probe import Probe
from pellucid.network.spec import PIXELS, NetworkSpec, OutputSpec
from pellucid.types import BEST, Floats, MapSpec, MethodSpec, Needs, Plan

OfEvidence = Callable[[Evidence], Floats]
OfProbe = Callable[[Probe], Floats]
OfAttended = Callable[[Attended], Floats]
Function = TypeVar("Function", OfEvidence, OfProbe, OfAttended)


@dataclass(frozen=True)
class Method:
    """A method that takes Evidence. It needs at most one gradient."""

    spec: MethodSpec
    heat: OfEvidence


@dataclass(frozen=True)
class ProbingMethod:
    """A method that takes a Probe. It runs the network behind the layer many times."""

    spec: MethodSpec
    heat: OfProbe


@dataclass(frozen=True)
class AttentionMethod:
    """A method that takes Attended: it reads the attention between tokens."""

    spec: MethodSpec
    heat: OfAttended


# Name -> method, in the order of their declarations.
METHODS: Final[dict[str, Method | ProbingMethod | AttentionMethod]] = {}


def method(
    name: str, *, title: str, needs: Needs, formula: str, paper: str, unit: str = "", **more: bool
) -> Callable[[Function], Function]:
    """Register the decorated function as a method. ``more`` sets the remaining fields of MethodSpec."""
    spec = MethodSpec(name, title, needs, formula, paper, unit=unit, **more)  # type: ignore[arg-type]

    def declare(heat: Function) -> Function:
        of_evidence = Method if needs in ("activation", "gradient") else ProbingMethod
        METHODS[name] = (AttentionMethod if spec.of_attention else of_evidence)(spec, heat)  # type: ignore[arg-type]
        return heat

    return declare


def offered(network: NetworkSpec, output: OutputSpec) -> tuple[MethodSpec, ...]:
    """The methods that a network can have. Those that read attention need one that has it. The first is the default.

    Of a dense output it is HiResCAM. Grad-CAM averages the gradient over positions, so where only a 1x1 convolution and
    a resize follow, its map is the same for every region.
    """
    specs = [method.spec for method in METHODS.values() if network.attentions or not method.spec.of_attention]
    return tuple(sorted(specs, key=lambda spec: output.kind == "dense" and spec.name != "hirescam"))


def choices(network: NetworkSpec, output: OutputSpec) -> tuple[MethodSpec, ...]:
    """What a request may name as its method: the methods offered, and ``best`` where there is a default layer.

    ``best`` is the mean of the maps by ``elementwise`` at the layers that end the last three map sizes, the most
    faithful map in docs/explanation/quality.md. In a network of one map size it is the default method at the default
    layer. The default layer is first, because /v1/explain reports the importance of channels at the first.
    """
    methods, layers = offered(network, output), network.last_stages[::-1]
    if not layers:
        return methods
    chosen = METHODS["elementwise"].spec if len(layers) > 1 else methods[0]
    best = replace(
        chosen,
        name=BEST,
        title=f"Best: {chosen.title}",
        formula=f"{chosen.name} at {' + '.join(layers)}" + ", the mean of the stretched maps" * (len(layers) > 1),
        at_layers=False,
        stands_for=MapSpec(chosen.name, layers),
    )
    return *methods, best


def _places(plan: Plan) -> Iterable[tuple[MethodSpec, str]]:
    """(method, layer) of every map of the plan."""
    return ((METHODS[heat.method].spec, layer) for heat in plan.wanted for layer in heat.layers)


def differentiated(plan: Plan) -> tuple[str, ...]:
    """The layers whose gradient is needed, for heat maps or for channel importance."""
    layers = [layer for spec, layer in _places(plan) if spec.needs == "gradient"]
    if has_importance(plan) and plan.layer is not None:
        layers.append(plan.layer)
    return tuple(dict.fromkeys(layers))


def explained(plan: Plan) -> tuple[str, ...]:
    """The layers whose activation is needed. PIXELS is among them if the whole network runs again."""
    layers = [*differentiated(plan)]
    if plan.edit is not None and plan.layer is not None:
        layers.append(plan.layer)
    for spec, layer in _places(plan):
        if not spec.of_attention:
            layers += [layer, PIXELS] if spec.needs == "network forwards" else [layer]
    return tuple(dict.fromkeys(layers))


def attends(plan: Plan) -> tuple[bool, bool]:
    """Whether a plan needs the attention matrices, and whether it needs the gradients by them."""
    needs = {spec.needs for spec, _ in _places(plan) if spec.of_attention}
    return bool(needs), "attention gradient" in needs


def costly(plan: Plan) -> tuple[tuple[str, str], ...]:
    """(method, layer) of the maps that share no gradient. They get their own lane, so that other images do not wait."""
    return tuple(dict.fromkeys((spec.name, layer) for spec, layer in _places(plan) if spec.needs != "gradient"))
