"""``torchvision:NAME``: torchvision's classification networks with their default weights.

Labels and preprocessing are those that torchvision declares beside the weights. Weights come from torch's hub cache,
and the first time from the internet.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from pellucid.compiler.weights import WeightsError, digest, load_strict, read_state
from pellucid.network.spec import ModelSpec, PreprocessSpec

from .errors import UnknownModelError

# Heads that help in training alone. Checkpoints may have them or not; they are loaded strictly and then removed.
_AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
# torchvision's packages of other networks, and what those do.
_OTHERS = {
    "detection": "detects objects",
    "optical_flow": "computes optical flow",
    "quantization": "is quantized",
    "segmentation": "segments pictures",
    "video": "classifies videos",
}


def load(name: str) -> tuple[nn.Module, ModelSpec]:
    """The network with its default weights, downloaded if they are not in the hub cache.

    Raises UnknownModelError, or WeightsError where the weights can't be had or do not fit.
    """
    weights = _weights(name)
    path = _cached(name, weights.url)
    state = _renamed(read_state(path))
    # The published googlenet and inception expect pixels that were normalised otherwise, and convert them.
    arguments = {"transform_input": True} if name in _AUXILIARY else {}
    labels = tuple(weights.meta["categories"])
    net = blank(name, len(labels), arguments, state)
    load_strict(net, state, path.name)
    spec = ModelSpec(
        name=f"torchvision:{name}",
        title=f"{name} of torchvision, {weights.name}",
        labels=labels,
        preprocess=preprocess(name),
        source=weights.url,
        weights_sha256=digest(path),
    )
    finish(name, net)
    return net, spec


def blank(name: str, classes: int, arguments: dict[str, Any], keys: Collection[str]) -> nn.Module:
    """The network with random weights, with auxiliary heads only where ``keys`` has them."""
    _check(name)
    options = dict(arguments)
    if name in _AUXILIARY:
        has_heads = any(key.startswith(_AUXILIARY[name]) for key in keys)
        options = {"aux_logits": has_heads, "init_weights": False} | options
    net: nn.Module = _models().get_model(name, weights=None, num_classes=classes, **options)
    return net


def finish(name: str, net: nn.Module) -> None:
    """Take the auxiliary heads off a loaded network."""
    for head in _AUXILIARY.get(name, ()):
        setattr(net, head, None)


def preprocess(name: str) -> PreprocessSpec:
    """What the default weights were evaluated with."""
    preset = _weights(name).transforms()
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    return PreprocessSpec(
        size=(crop, crop),
        resize=resize,
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _models() -> Any:
    """torchvision's networks, imported by who asks for one: with them comes torch's compiler, a second and 150 MiB."""
    from torchvision import models

    return models


def _names() -> list[str]:
    names: list[str] = _models().list_models(module=_models())
    return names


def _check(name: str) -> None:
    names = _names()
    if name in names:
        return
    models = _models()
    for package, does in _OTHERS.items():
        if name in models.list_models(module=getattr(models, package)):
            inside = [f"torchvision:{known}" for known in names if known in name]
            hint = f"; close to it: {', '.join(inside)}" if inside else ""
            raise UnknownModelError(
                f"torchvision:{name} {does}; torchvision's float networks that classify pictures are served{hint}"
            )
    raise UnknownModelError.among("torchvision", name, names)


def _weights(name: str) -> Any:
    _check(name)
    return _models().get_model_weights(name).DEFAULT


def _cached(name: str, url: str) -> Path:
    """The file of weights in torch's hub cache, fetched with a progress bar if it is not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            torch.hub.download_url_to_file(url, str(path), expected and expected[1], progress=True)
        except (URLError, OSError, RuntimeError) as error:
            raise WeightsError(
                f"the weights of torchvision:{name} can't be downloaded from {url} ({error}). Without a network, put "
                f"that file at {path}, or describe a checkpoint of your own and serve file:PATH "
                "(docs/your-own-model.md)"
            ) from error
    return path


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published densenets name their norms and convolutions as in 2017: ``norm.1`` for ``norm1``."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
    return {old.sub(r"\1", key): value for key, value in state.items()}
