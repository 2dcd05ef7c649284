"""What every method of making heat maps is, how well it agrees with other libraries', and what it costs.

``python -m benchmarks.methods`` (``make methods``) measures on the shipped photographs and the default network, and
writes the table of docs/reference/methods.md and the costs that /v1/models tells.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.engine import inputs, load_engine
from benchmarks.oracles import ORACLES, SAMPLES, SIGNLESS, Enlarged, difference, enlarged
from benchmarks.report import fill, machine_line
from benchmarks.servers import ROOT
from models import catalog
from pellucid.compiler.compiling import compile_network
from pellucid.explain.methods import METHODS, AttentionMethod, Method, choices
from pellucid.network.file import CompiledNetwork
from pellucid.network.spec import PIXELS, SOFTMAX, NetworkSpec
from pellucid.types import Batch, Floats, MapSpec, Plan
from service.config import Settings
from tests.explain.passes import evidence_at, probe_at

PAGE: Final = ROOT / "docs" / "reference" / "methods.md"
COSTS: Final = ROOT / "service" / "routes" / "method_costs.json"
# Of a method that takes seconds, fewer rounds do.
_SLOW: Final = ("network forwards",)
_CLASS: Final = 285
_TEN: Final = (285, 281, 282, 967, 657, 504, 744, 812, 0, 999)
GRADIENT: Final = tuple(name for name, method in METHODS.items() if method.spec.needs == "gradient")


def plans(network: NetworkSpec) -> dict[str, Plan]:
    """What is timed, by name: each method where it is taken by default and at the middle layer, and all at once."""
    default, middle = network.default_layer, network.feature_layers[1]
    found = {"predict": Plan(top_k=5)}
    for method in choices(network, SOFTMAX):
        place = PIXELS if method.at_pixels else default
        found[f"{method.name} default"] = Plan(heat_maps=(method.stands_for or MapSpec(method.name, (place,)),))
        if method.stands_for is None:
            found[f"{method.name} middle"] = Plan(heat_maps=(MapSpec(method.name, (middle,)),))
    found["all of one gradient"] = Plan(heat_maps=tuple(MapSpec(name, (middle,)) for name in GRADIENT))
    found["ten classes"] = Plan(heat_maps=(MapSpec("grad-cam", (middle,)),), targets=_TEN)
    found["ten classes default"] = Plan(heat_maps=(MapSpec("grad-cam", (default,)),), targets=_TEN)
    return found


def costs(rounds: int) -> dict[str, Any]:
    """Seconds of the engine for one image, the service's own engine and settings, by the name of the plan."""
    engine, spec = load_engine(Settings(), slots=1)
    images = inputs(spec)[:1]
    seconds: dict[str, list[float]] = {}
    for number in range(-1, rounds):  # the first one builds graphs and warms up
        for name, plan in plans(engine.network).items():
            slow = any(METHODS[heat.method].spec.needs in _SLOW for heat in plan.heat_maps)
            if slow and number > 0:
                continue
            batch = Batch(images, (plan,))
            if not slow:
                engine.run(batch)  # what ran before leaves its threads spinning and its values in the caches
            started = time.perf_counter()
            engine.run(batch)
            if number >= 0 or slow:
                seconds.setdefault(name, []).append(time.perf_counter() - started)
        print(f"round {number}", file=sys.stderr, flush=True)
    middle = engine.network.feature_layers[1]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return {"engine": engine.info.description, "model": spec.name, "middle": middle, "seconds": medians}


def agreements() -> dict[str, dict[str, float]]:
    """The largest difference to each oracle over photographs and layers, a share of its map's largest value; fp32.

    Of the network without gates: behind one, the others' hooks would see another value than the layer of that name.
    """
    net, spec = catalog.load("lite0-plain")
    graph = compile_network(net, spec, None)
    mean, std = (torch.tensor(values) for values in (spec.preprocess.mean, spec.preprocess.std))
    found: dict[str, dict[str, float]] = {name: {} for name in METHODS}
    for image in inputs(spec)[:3]:
        picture = ((torch.from_numpy(image).float() / 255 - mean) / std).permute(2, 0, 1)[None].contiguous()
        for name, oracles in ORACLES.items():
            for layer in _compared(name, graph.spec) if oracles else ():
                ours = _ours(graph, name, layer, picture)
                enlarge = isinstance(METHODS[name], Method)
                compared, path = (Enlarged(net), f"net.{layer}") if enlarge else (net, layer)
                for whose, oracle in oracles.items():
                    theirs = oracle(compared, path, picture, _CLASS)
                    found[name][whose] = max(difference(name, ours, theirs), found[name].get(whose, 0.0))
        print("compared one photograph", file=sys.stderr, flush=True)
    return found


def _ours(graph: CompiledNetwork, name: str, layer: str, picture: Tensor) -> Floats:
    method = METHODS[name]
    assert not isinstance(method, AttentionMethod)  # the default network has no attention
    if isinstance(method, Method):
        (evidence,) = evidence_at(graph, layer, picture, [[_CLASS]])
        heat_maps = method.heat(enlarged(evidence))
    else:
        varied = PIXELS if method.spec.needs == "network forwards" else layer
        heat_maps = method.heat(probe_at(graph, layer, picture, [_CLASS], varied=varied, samples=SAMPLES))
    heat: Floats = heat_maps[0]
    return heat


def _compared(name: str, network: NetworkSpec) -> tuple[str, ...]:
    """Where a method is compared: the pixels, or layers; those of many passes only where they are few."""
    early, middle, default = network.feature_layers
    if "eigen" in name:  # their decomposition of 1280 channels takes ten seconds
        return early, middle
    spec = METHODS[name].spec
    if spec.at_pixels:
        return (PIXELS,)
    if name == "score-cam-at-layer" or spec.of_attention:
        return ()  # in the tests: on what lies behind a cut as a network of its own, and on networks with attention
    if name == "ablation-cam":
        return ("stem",)  # behind a ReLU: elsewhere theirs hides a channel by a large negative number
    return ("stem",) if spec.needs == "network forwards" else (early, middle, default)


def table(figures: dict[str, Any]) -> str:
    """The table of all methods. Figures of quality by method have their columns behind these."""
    head = (
        "| method | needs | what it computes | by | the others' maps, largest difference "
        "| cost by default | cost at the middle layer |\n|---|---|---|---|---|---|---|"
    )
    return "\n".join([head, *(_row(name, figures) for name in METHODS)])


def _row(name: str, figures: dict[str, Any]) -> str:
    spec, seconds = METHODS[name].spec, figures["cost"]["seconds"]
    agreed = ", ".join(f"{whose} {worst:.0e}" for whose, worst in figures["agreement"][name].items())
    agreed += " but for the sign" if name in SIGNLESS else ""
    places = [f"{name} {where}" for where in ("default", "middle")]
    relative = [seconds[place] / seconds["predict"] for place in places if place in seconds]
    shown = " | ".join(f"{each:.2f}" if each < 10 else f"{each:.0f}" for each in relative) or "– | –"
    cells = (f"`{name}`", spec.needs, spec.formula, spec.paper, agreed or "in the tests alone")
    return f"| {' | '.join(cells)} | {shown} |"


def at_once(figures: dict[str, Any]) -> str:
    """What several maps at the middle layer cost beside one."""
    seconds, middle = figures["cost"]["seconds"], figures["cost"]["middle"]
    one = seconds["grad-cam middle"]
    rows = [
        "| at once | engine, ms | beside one |",
        "|---|---|---|",
        f"| Grad-CAM, one class, `{middle}` | {one * 1000:.1f} | 1.00 |",
        f"| all {len(GRADIENT)} methods of one gradient, one class, `{middle}` "
        f"| {seconds['all of one gradient'] * 1000:.1f} | {seconds['all of one gradient'] / one:.2f} |",
        f"| Grad-CAM, ten classes, `{middle}` | {seconds['ten classes'] * 1000:.1f} "
        f"| {seconds['ten classes'] / one:.2f} |",
        f"| Grad-CAM, one class, default layer | {seconds['grad-cam default'] * 1000:.1f} | |",
        f"| Grad-CAM, ten classes, default layer | {seconds['ten classes default'] * 1000:.1f} "
        f"| {seconds['ten classes default'] / seconds['grad-cam default']:.2f} of one there |",
    ]
    return "\n".join(rows)


def main(rounds: int = 7) -> None:
    """Measure and write."""
    figures = {"machine": machine.describe(), "cost": costs(rounds), "agreement": agreements()}
    seconds = figures["cost"]["seconds"]
    relative = {name: round(value / seconds["predict"], 2) for name, value in seconds.items()}
    of_model = {
        "engine": figures["cost"]["engine"],
        "machine": f"{figures['machine']['cores']} cores of {figures['machine']['processor']}",
        "date": figures["machine"]["date"],
        "methods": {
            name: {"default_layer": relative[f"{name} default"], "middle_layer": relative.get(f"{name} middle")}
            for name in (*METHODS, "best")
            if f"{name} default" in relative
        },
    }
    COSTS.write_text(json.dumps({figures["cost"]["model"]: of_model}, indent=1) + "\n", "utf-8")
    text = PAGE.read_text("utf-8")
    for name, written in {
        "methods": f"{machine_line(figures['machine'])} Engine: {figures['cost']['engine']}.\n\n{table(figures)}",
        "at-once": at_once(figures),
    }.items():
        text = fill(text, name, written, by="make methods")
    PAGE.write_text(text, "utf-8")
    print(table(figures), at_once(figures), sep="\n\n")


if __name__ == "__main__":
    main()
