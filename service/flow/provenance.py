"""What computed an answer, in enough detail to compute it again to the bit."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from pellucid.network.spec import PreprocessSpec
from pellucid.parts.explain import PARTS, ExplainOptions
from pellucid.parts.option_types import Options
from pellucid.schemas import Preprocess
from pellucid.types import Plan

from .bodies import FILE_OPTIONS, json_image
from .networks import Served

# The libraries that process an image, from its bytes to the reply.
_LIBRARIES: Final = ("pellucid", "torch", "openvino", "numpy", "pillow", "simplejpeg", "cykooz-resizer", "isal")


def of_reply(route: str, options: Options, plan: Plan, network: Served) -> dict[str, Any]:
    """The provenance of a reply: a ``schemas.Provenance`` as plain data. Raises MalformedRequest for no base64."""
    spec = network.spec
    pictures = {
        name: hashlib.sha256(json_image(text, name).data).hexdigest()
        for name in FILE_OPTIONS
        if (text := getattr(options, name, None)) is not None
    }
    return {
        "route": route,
        "options": _resolved(options, plan, network),
        **({"pictures": pictures} if pictures else {}),
        "network": {
            "name": spec.name,
            "source": spec.source,
            "weights_sha256": spec.weights_sha256,
            "parameters_sha256": spec.parameters_sha256,
        },
        "preprocess": preprocess(spec.preprocess).model_dump(),
        **network.runtime,
    }


def preprocess(spec: PreprocessSpec) -> Preprocess:
    """A network's preprocessing as a schema."""
    fields = asdict(spec)
    return Preprocess(crop=fields.pop("size"), **fields)


def _resolved(options: Options, plan: Plan, network: Served) -> dict[str, Any]:
    """The options that give the same plan again, even if defaults have changed by then."""
    output, layers = network.spec.output.kind, _layers(plan) if plan.heat_maps else None
    known: dict[str, Any] = {
        "model": network.spec.name,
        "layer": layers if plan.heat_maps else plan.layer if plan.edit is None or not plan.edit.gate else None,
        "detail": options.seen(network.spec, network.sizes).detail or None,
        "against": [str(index) for index in plan.contrast.against] if plan.contrast else None,
        "target": [str(index) for index in plan.targets] if output != "embedding" else [],
        "method": list(dict.fromkeys(heat.method for heat in plan.heat_maps)) if layers else None,
        "fuse": plan.heat_maps[0].fuse if layers and len(plan.heat_maps[0].layers) > 1 else None,
        "layers": [tap.layer for tap in plan.taps if not tap.gate],
        "include": [part for part in PARTS if isinstance(options, ExplainOptions) and part in options.include],
    }
    chosen = options.model_dump(mode="json", exclude={"timeout_ms", *FILE_OPTIONS}, exclude_none=True)
    if output != "dense" or getattr(options, "region_mask", None) is not None:
        chosen.pop("region", None)
    return chosen | {
        name: value for name, value in known.items() if name in type(options).model_fields and value is not None
    }


def _layers(plan: Plan) -> list[str] | None:
    """The layers of the maps; None if methods have different layers, or some are fused, which no list can express."""
    by_method: dict[str, set[tuple[str, ...]]] = {}
    for heat in plan.heat_maps:
        by_method.setdefault(heat.method, set()).add(heat.layers)
    first, *others = by_method.values()
    if any(other != first for other in others) or len({*map(len, first)}) > 1:
        return None
    return list(dict.fromkeys(layer for heat in plan.heat_maps for layer in heat.layers))


def versions() -> dict[str, str]:
    """The versions of Python and of the installed libraries among ``_LIBRARIES``."""
    installed = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
