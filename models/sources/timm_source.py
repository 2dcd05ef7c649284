"""``timm:NAME`` or ``timm:NAME.TAG``: timm's classification networks with pretrained weights. Needs the extra ``timm``.

Labels and preprocessing are those of timm's pretrained configuration. Weights are downloaded once and kept in the
Hugging Face cache.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any, cast, get_args

from torch import nn

from pellucid.compiler.weights import WeightsError
from pellucid.network.spec import Interpolation, ModelSpec, PreprocessSpec

from . import UnknownModelError


def load(name: str) -> tuple[nn.Module, ModelSpec]:
    """The network with pretrained weights, downloaded if they are not in the cache, and its spec.

    Raises UnknownModelError, or WeightsError if there are no weights, no classes, or the weights can't be loaded.
    """
    timm = _timm(name)
    _check(timm, name)
    _check_weights(timm, name)
    try:
        net: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # timm, huggingface_hub and httpx raise many types if the hub is unreachable
        raise WeightsError(
            f"the weights of timm:{name} can't be loaded ({_first_line(error)}). Without internet, fill the Hugging "
            f"Face cache beforehand (python -c \"import timm; timm.create_model('{name}', pretrained=True)\"), or "
            "describe your own checkpoint and use file:PATH (docs/how-to/your-own-model.md)"
        ) from error
    configuration = cast(Any, net).pretrained_cfg
    spec = ModelSpec(
        name=f"timm:{name}",
        title=f"{configuration.get('architecture', name)} of timm, {configuration.get('tag') or 'default weights'}",
        labels=_labels(configuration),
        preprocess=_preprocess(timm, configuration, name),
        source=f"https://huggingface.co/{configuration.get('hf_hub_id') or 'timm'}",
    )
    return net, spec


def blank(name: str, classes: int, arguments: dict[str, Any], keys: Collection[str]) -> nn.Module:
    """The network with random weights."""
    timm = _timm(name)
    _check(timm, name)
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes, **arguments)
    return net


def preprocess(name: str) -> PreprocessSpec:
    """The preprocessing of the pretrained weights.

    Raises UnknownModelError for a name without a pretrained configuration, such as timm's deprecated names.
    """
    timm = _timm(name)
    _check(timm, name)
    configuration = timm.get_pretrained_cfg(name)
    if configuration is None:
        close = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; close to it: {', '.join(f'timm:{other}' for other in close)}" if close else ""
        raise UnknownModelError(
            f"timm has no pretrained configuration for timm:{name}, so its preprocessing is unknown; use a name that "
            f"has one{hint}"
        )
    return _preprocess(timm, configuration.to_dict(), name)


def _timm(name: str) -> Any:
    try:
        import timm  # an optional extra
    except ImportError as error:
        raise WeightsError(f"timm:{name} needs timm: pip install 'pellucid[timm]'") from error
    return timm


def _check(timm: Any, name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UnknownModelError.among("timm", name, timm.list_models())
    known = [entry for entry in timm.list_pretrained(f"{architecture}.*") if entry.partition(".")[0] == architecture]
    if tag and name not in known:
        raise UnknownModelError.among("timm", name, known)


def _check_weights(timm: Any, name: str) -> None:
    configuration = timm.get_pretrained_cfg(name)
    if configuration is None:  # a deprecated name, which timm maps to the current one
        return
    own = "use file:PATH with your own checkpoint of two classes or more (docs/how-to/your-own-model.md)"
    if not timm.is_model_pretrained(name):
        raise WeightsError(f"timm has no pretrained weights for timm:{name}: {own}")
    if configuration.num_classes < 1:
        raise WeightsError(f"timm:{name} computes features, not classes: {own}")


def _preprocess(timm: Any, configuration: dict[str, Any], name: str) -> PreprocessSpec:
    config = timm.data.resolve_data_config(pretrained_cfg=configuration)
    channels, height, width = config["input_size"]
    if channels != 3 or config["interpolation"] not in get_args(Interpolation) or config["crop_mode"] == "border":
        raise WeightsError(
            f"timm:{name} expects {channels} channels, interpolation {config['interpolation']} and crop mode "
            f"{config['crop_mode']}; supported: 3 channels, {', '.join(get_args(Interpolation))}, and center or squash"
        )
    return PreprocessSpec(
        size=(height, width),
        resize=math.floor(min(height, width) / config["crop_pct"]),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        squash=config["crop_mode"] == "squash",
    )


def _labels(configuration: dict[str, Any]) -> tuple[str, ...]:
    """The configuration's labels, or those of the ImageNet subset with as many classes, or numbered labels."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    if configuration.get("label_names"):
        return tuple(configuration["label_names"])
    subset = infer_imagenet_subset(configuration)
    if subset is None:
        return tuple(f"class {index}" for index in range(configuration["num_classes"]))
    return tuple(ImageNetInfo(subset).label_descriptions())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
