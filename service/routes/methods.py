"""The methods of making heat maps, as /v1/models/{name} tells of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from pellucid.network.spec import PIXELS
from pellucid.schemas import MethodCost, MethodDetail

from ..flow.run import Pipeline


@cache
def _costs() -> dict[str, Any]:
    """The costs that come with the package, by network: whose they are, and by method. `make methods` measures them."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("method_costs.json").read_text("utf-8"))
    return found


def details(pipeline: Pipeline) -> list[MethodDetail]:
    """What each method is, needs and costs with this network."""
    origin = dict(_costs().get(pipeline.spec.name, {}))
    measured = origin.pop("methods", {})
    return [
        MethodDetail(
            name=method.name,
            title=method.title,
            needs=method.needs,
            at=[*["layers"] * method.at_layers, *["pixels"] * method.at_pixels],
            default_layer=PIXELS if method.at_pixels else pipeline.network.default_layer,
            signed=method.signed,
            of_class=method.of_class,
            formula=method.formula,
            paper=method.paper,
            cost=MethodCost(**origin, **measured[method.name]) if method.name in measured else None,
        )
        for method in pipeline.methods
    ]
