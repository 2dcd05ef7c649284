"""``hf:FOLDER``: a network that ``transformers`` saved with its image processor. Needs the extra ``transformers``.

The folder holds ``config.json``, ``preprocessor_config.json`` and ``model.safetensors``, as ``save_pretrained`` writes
them and huggingface.co offers them. Labels, kind of output and preprocessing are theirs. Nothing is downloaded, and no
code of the folder runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pellucid.compiler.weights import WeightsError
from pellucid.decode.preprocess import Frame, to_input
from pellucid.network.file import digest_of
from pellucid.network.spec import Interpolation, ModelSpec, OutputKind, OutputSpec, PreprocessSpec

from .outputs import dense, with_forward

_KINDS: Final[dict[str | None, OutputKind]] = {
    None: "softmax",
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "linear",
}
_RESAMPLE: Final[dict[int, Interpolation]] = {0: "nearest", 2: "bilinear", 3: "bicubic"}
# The outputs of a network without a head that are one vector for each picture, the most specific first.
_VECTORS: Final = ("image_embeds", "pooler_output")
# The largest difference of the two preprocessings of a smooth picture, of values from 0 to 1: above that of resampling.
_TOLERANCE: Final = 0.02
_TAKEN: Final = "a classifier of pictures, a semantic segmentation, or a network with image_embeds or pooler_output"


def load(name: str) -> tuple[nn.Module, ModelSpec]:
    """The network in the folder, and its spec. Raises WeightsError."""
    folder = Path(name).expanduser()
    transformers = _transformers(name)
    architecture = _architecture(folder)
    kind: Any = getattr(transformers, architecture, None)
    if not isinstance(kind, type) or transformers.PreTrainedModel not in kind.__mro__:
        raise WeightsError(
            f"hf:{name} is a {architecture}, which transformers {transformers.__version__} does not have; code of the "
            "folder is not run: build the network in a module of yours and compile it by its class"
        )
    takes = getattr(kind, "main_input_name", None)
    if takes != "pixel_values":
        raise WeightsError(f"hf:{name} is a {architecture}, which takes {takes}; supported: {_TAKEN}")
    net = _network(kind, folder, name)
    preprocess = _preprocess(transformers, folder, name)
    labels, output = _output(net, architecture, preprocess, name)
    file = folder / "model.safetensors"
    spec = ModelSpec(
        name=folder.resolve().name,
        title=f"{architecture}, {folder.resolve().name}",
        labels=labels,
        preprocess=preprocess,
        source=f"{folder.resolve().name}, a folder of transformers",
        weights_sha256=digest_of(file) if file.is_file() else None,
        output=output,
    )
    return net, spec


def _transformers(name: str) -> Any:
    try:
        import transformers  # an optional extra
    except ImportError as error:
        raise WeightsError(f"hf:{name} needs transformers: pip install 'pellucid[transformers]'") from error
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _architecture(folder: Path) -> str:
    """The class that the folder's configuration names."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except OSError as error:
        raise WeightsError(
            f"hf:{folder}: there is no config.json in the folder: give what save_pretrained wrote"
        ) from error
    except ValueError as error:
        raise WeightsError(f"hf:{folder}: config.json can't be read: {error}") from error
    named = config.get("architectures") if isinstance(config, dict) else None
    if not isinstance(named, list) or len(named) != 1 or not isinstance(named[0], str):
        raise WeightsError(f"hf:{folder}: config.json names no class under architectures: save_pretrained writes it")
    return named[0]


def _network(kind: Any, folder: Path, name: str) -> nn.Module:
    """The network with its weights, of which none may be missing, left over or of another shape."""
    if not [*folder.glob("*.safetensors")]:
        raise WeightsError(f"hf:{name} has no model.safetensors: save it by save_pretrained, which writes it")
    try:
        net, found = kind.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises many types
        raise WeightsError(f"hf:{name} can't be loaded: {_first_line(error)}") from error
    wrong = {key: sorted(map(str, found.get(f"{key}_keys") or ())) for key in ("missing", "unexpected", "mismatched")}
    if any(wrong.values()):
        reason = "; ".join(f"{key}: {', '.join(names[:8])}" for key, names in wrong.items() if names)
        raise WeightsError(f"the weights of hf:{name} do not fit {kind.__name__}: {reason}")
    module: nn.Module = net.float().eval()
    return module


def _output(net: Any, architecture: str, preprocess: PreprocessSpec, name: str) -> tuple[tuple[str, ...], OutputSpec]:
    """The labels and what they mean. The network then returns the one tensor that holds them."""
    config, own = net.config, type(net)
    classifies, segments = "ForImageClassification" in architecture, architecture.endswith("ForSemanticSegmentation")
    if classifies or segments:
        labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
        problem = getattr(config, "problem_type", None) or ("regression" if config.num_labels == 1 else None)
        if classifies and problem not in _KINDS:
            raise WeightsError(
                f"hf:{name}: problem_type {problem!r} of config.json is not one of {', '.join(filter(None, _KINDS))}"
            )
        with_forward(net, lambda net, pixels: own.forward(net, pixels)["logits"])
        return labels, dense(labels) if segments else OutputSpec(_KINDS[problem])
    with torch.no_grad():
        given = net(torch.zeros(1, 3, *preprocess.size))
    key = next((key for key in _VECTORS if isinstance(given.get(key), Tensor)), None)
    if key is None:
        raise WeightsError(f"hf:{name} is a {architecture}, which returns {', '.join(given)}; supported: {_TAKEN}")
    with_forward(net, lambda net, pixels: own.forward(net, pixels)[key].flatten(1))
    return (), OutputSpec("embedding")


def _preprocess(transformers: Any, folder: Path, name: str) -> PreprocessSpec:
    """The image processor's steps. Its result on a picture is compared with that of the spec."""
    if not (folder / "preprocessor_config.json").is_file():
        raise WeightsError(
            f"hf:{name} has no preprocessor_config.json, so its preprocessing is unknown: save the image processor "
            "into the folder (processor.save_pretrained)"
        )
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        spec = _spec(processor)
        fits = _agree(processor, spec)
    except Exception as error:  # transformers raises many types, and a processor may lack any field
        raise WeightsError(f"the image processor of hf:{name} can't be used: {_first_line(error)}") from error
    if not fits:
        raise WeightsError(
            f"{type(processor).__name__} of hf:{name} does more than resize a picture, crop its centre and "
            "normalise its channels: put the rest into the forward of a class of yours, and compile that"
        )
    return spec


def _spec(processor: Any) -> PreprocessSpec:
    size: Any = processor.size
    crop: Any = getattr(processor, "crop_size", None)
    short, share = size.get("shortest_edge"), getattr(processor, "crop_pct", None)
    if short is None and size["height"] != size["width"] and not getattr(processor, "do_center_crop", None):
        raise ValueError(
            f"it resizes pictures to {size['height']}x{size['width']} pixels whatever their shape, not to a square"
        )
    resize, squash = (short, False) if short is not None else (size["height"], True)
    target = (resize, resize)
    if short is not None and share is not None:  # ConvNeXt's: from 384 pixels on it does not crop
        resize, squash = (short, True) if short >= 384 else (int(short / share), False)
    elif getattr(processor, "do_center_crop", None):
        target = crop["height"], crop["width"]
    scale = 255 * processor.rescale_factor if processor.do_rescale else 255
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0, 0, 0), (1, 1, 1))
    return PreprocessSpec(
        size=target,
        resize=resize,
        interpolation=_RESAMPLE[int(processor.resample)],
        mean=_scaled(mean, scale),
        std=_scaled(std, scale),
        squash=squash,
    )


def _scaled(values: Sequence[float], scale: float) -> tuple[float, float, float]:
    red, green, blue = (float(value) / scale for value in values)
    return red, green, blue


def _agree(processor: Any, spec: PreprocessSpec) -> bool:
    """Whether the processor computes what the spec says, from a smooth picture that has no symmetry.

    Of a processor that does not crop, the centre of the result counts.
    """
    y, x = np.mgrid[0:300, 0:400].astype(np.float32)
    picture = np.stack((x / 2, y / 2 + x / 8, 200 - y / 2), -1).round().astype(np.uint8)
    found = processor(images=Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    top, left = ((has - side) // 2 for has, side in zip(found.shape[1:], spec.size, strict=True))
    if top < 0 or left < 0:
        return False
    found = found[:, top : top + spec.size[0], left : left + spec.size[1]]
    own = to_input(Image.fromarray(picture), Frame.of(400, 300, spec), spec).transpose(2, 0, 1) / 255
    mean, std = (np.array(values)[:, None, None] for values in (spec.mean, spec.std))
    return bool(found.shape == own.shape and np.abs(found * std + mean - own).mean() < _TOLERANCE)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
