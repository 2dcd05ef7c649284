"""``torchvision:NAME``: torchvision's classification and segmentation networks with their default weights.

Labels and preprocessing are those that torchvision declares for the weights. Weights are downloaded once and kept in
torch's hub cache.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from pellucid.compiler.weights import WeightsError, load_strict, read_state
from pellucid.network.file import digest_of
from pellucid.network.spec import ModelSpec, OutputSpec, PreprocessSpec

from . import UnknownModelError
from .outputs import dense, with_forward

# Heads that are used only in training. If a checkpoint has them, they are loaded strictly and then removed.
_AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
_AUXILIARY_OF_SEGMENTATION = "aux_classifier"
# torchvision's packages of networks that can't be served -> what these do.
_OTHERS = {
    "detection": "detects objects",
    "optical_flow": "computes optical flow",
    "quantization": "is quantized",
    "video": "classifies videos",
}


def load(name: str) -> tuple[nn.Module, ModelSpec]:
    """The network with its default weights, downloaded if they are not in the hub cache, and its spec.

    Raises UnknownModelError, or WeightsError if the weights can't be loaded.
    """
    weights = _weights(name)
    path = _cached(name, weights.url)
    state = _renamed(read_state(path))
    # The published googlenet and inception were trained with another normalisation, to which they convert pixels.
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
        weights_sha256=digest_of(path),
        output=output(name, labels),
    )
    finish(name, net)
    return net, spec


def blank(name: str, classes: int, arguments: dict[str, Any], keys: Collection[str]) -> nn.Module:
    """The network with random weights. It has auxiliary heads only if ``keys`` has them."""
    _check(name)
    options = dict(arguments)
    if name in _AUXILIARY:
        has_heads = _any_of(_AUXILIARY[name], keys)
        options = {"aux_logits": has_heads, "init_weights": False} | options
    if _segments(name):
        has_heads = _any_of((_AUXILIARY_OF_SEGMENTATION,), keys)
        options = {"weights_backbone": None, "aux_loss": has_heads} | options
    net: nn.Module = _models().get_model(name, weights=None, num_classes=classes, **options)
    return net


def _any_of(heads: tuple[str, ...], keys: Collection[str]) -> bool:
    """Whether a module of these names is in the keys, at the top or under the prefix of a trainer's module."""
    return any(set(heads) & {*key.split(".")} for key in keys)


def finish(name: str, net: nn.Module) -> None:
    """Remove the auxiliary heads of a loaded network. A segmentation network then returns its logits alone."""
    for head in _AUXILIARY.get(name, ()):
        setattr(net, head, None)
    if _segments(name):
        setattr(net, _AUXILIARY_OF_SEGMENTATION, None)
        with_forward(net, _segmentation)


def _segmentation(net: Any, pixels: Tensor) -> Tensor:
    """The logits ``[B, classes, h, w]``, an 8th or a 16th of the pixels' sides.

    They are the network's ``out`` before its last step, which resizes it to the pixels' size: up to 256 times as many
    numbers, and no more information.
    """
    features = net.backbone(pixels)
    logits: Tensor = net.classifier(features if "low" in features else features["out"])  # LR-ASPP takes two maps
    return logits


def output(name: str, labels: Sequence[str]) -> OutputSpec:
    """What the network's output means."""
    return dense(labels) if _segments(name) else OutputSpec()


def preprocess(name: str) -> PreprocessSpec:
    """The preprocessing of the default weights. A segmentation network gets the picture's central square."""
    preset = _weights(name).transforms()
    (resize,) = preset.resize_size
    (crop,) = getattr(preset, "crop_size", (resize,))
    return PreprocessSpec(
        size=(crop, crop),
        resize=resize,
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _models() -> Any:
    """torchvision.models, imported on use: it loads torch's compiler, which takes a second and 150 MiB."""
    from torchvision import models

    return models


def _names() -> list[str]:
    models = _models()
    return [*models.list_models(module=models), *models.list_models(module=models.segmentation)]


def _segments(name: str) -> bool:
    models = _models()
    return name in models.list_models(module=models.segmentation)


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
                f"torchvision:{name} {does}; only torchvision's float classification and segmentation networks are "
                f"supported{hint}"
            )
    raise UnknownModelError.among("torchvision", name, names)


def _weights(name: str) -> Any:
    _check(name)
    return _models().get_model_weights(name).DEFAULT


def _cached(name: str, url: str) -> Path:
    """The weights file in torch's hub cache. Downloads it with a progress bar if it is missing."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            torch.hub.download_url_to_file(url, str(path), expected and expected[1], progress=True)
        except (URLError, OSError, RuntimeError) as error:
            raise WeightsError(
                f"the weights of torchvision:{name} can't be downloaded from {url} ({error}). Without internet, put "
                f"that file at {path}, or describe your own checkpoint and use file:PATH "
                "(docs/how-to/your-own-model.md)"
            ) from error
    return path


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of the published densenets, which are those of 2017: ``norm.1`` becomes ``norm1``."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(?=[12]\.)")
    return {old.sub(r"\1", key): value for key, value in state.items()}
