"""``file:PATH``: a checkpoint and its description, a file beside it with the same name and the suffix .toml or .json.

docs/how-to/your-own-model.md has a table of its keys.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, field_validator
from torch import nn

from pellucid.compiler import exported
from pellucid.compiler.weights import WeightsError, check_digest, load_prefixed, program, read_state
from pellucid.network.file import digest_of
from pellucid.network.spec import (
    CROP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    ModelSpec,
    OutputKind,
    OutputSpec,
    PreprocessSpec,
)

from . import UnknownModelError, lite_source, timm_source, torchvision_source

ARCHITECTURES: dict[str, ModuleType] = {
    "lite0": lite_source,
    "lite2": lite_source,
    "torchvision": torchvision_source,
    "timm": timm_source,
}


class _Preprocess(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    resize: PositiveInt | None = None
    interpolation: Interpolation | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    squash: bool | None = None


class _Description(BaseModel):
    model_config = ConfigDict(extra="forbid")

    architecture: str | None = None
    labels: list[str] | str = Field(default_factory=list)
    classes: int | None = Field(None, ge=1)
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    name: str | None = None
    title: str | None = None
    strip_prefix: str | None = None
    output: OutputKind | None = None
    threshold: float | None = Field(None, gt=0, lt=1)
    units: list[str] | None = None
    background: int | str | None = None
    preprocess: _Preprocess = _Preprocess()
    arguments: dict[str, Any] = Field(default_factory=dict)

    @field_validator("name")
    @classmethod
    def _fits_an_address(cls, name: str | None) -> str | None:
        if name is not None and ("/" in name or name.strip(" .") == "" or not name.isprintable()):
            raise ValueError(f"{name!r} can't be the name in /v1/models/NAME: it must have letters and no slash")
        return name


def load(name: str) -> tuple[nn.Module, ModelSpec]:
    """The network of the description with the checkpoint's weights, loaded strictly, and its spec.

    Raises UnknownModelError for an unknown architecture, and WeightsError for any other error in the two files.
    """
    path = Path(name).expanduser()
    if not path.is_file():
        raise WeightsError(f"there is no weights file at {path}")
    described, description = _read_description(path)
    read = _exported if program(path) == "torch.export" else _checkpoint
    net, preprocess, usual = read(path, described, description)
    output = _output(described, description, usual)
    spec = ModelSpec(
        name=description.name or path.stem,
        title=description.title or ", ".join(filter(None, (description.architecture, path.name))),
        labels=() if output.kind == "embedding" else _labels(described, description),
        preprocess=preprocess,
        source=path.name,
        weights_sha256=digest_of(path),
        output=output,
    )
    return net, spec


def _checkpoint(path: Path, described: Path, description: _Description) -> tuple[nn.Module, PreprocessSpec, OutputSpec]:
    """An architecture with the checkpoint's weights, its preprocessing, and what its output usually means."""
    named = description.architecture
    if named is None:
        raise WeightsError(f"{described}: architecture: Field required")
    source, _, architecture = named.partition(":")
    if source not in ARCHITECTURES or (bool(architecture) == (ARCHITECTURES[source] is lite_source)):
        raise UnknownModelError(
            f"{described}: unknown architecture {named!r}; known: lite0, lite2, torchvision:NAME, timm:NAME"
        )
    factory, architecture = ARCHITECTURES[source], architecture or source
    labels = _labels(described, description)
    published = factory.preprocess(architecture)
    state = read_state(path, description.sha256)
    try:
        net = factory.blank(architecture, len(labels), description.arguments, state)
    except TypeError as error:
        raise WeightsError(f"{described}: [arguments] do not fit {named}: {error}") from error
    load_prefixed(net, state, path.name, description.strip_prefix)
    usual = OutputSpec()
    if factory is torchvision_source:
        torchvision_source.finish(architecture, net)
        usual = torchvision_source.output(architecture, labels)
    return net, _preprocess(published, description.preprocess), usual


def _exported(path: Path, described: Path, description: _Description) -> tuple[nn.Module, PreprocessSpec, OutputSpec]:
    """A network of torch.export. Its preprocessing is ImageNet's, unless the description says more."""
    if description.architecture or description.arguments or description.strip_prefix:
        raise WeightsError(f"{described}: {path.name} holds its architecture: leave architecture and arguments out")
    check_digest(path, description.sha256)
    found = exported.load(path)
    own = description.preprocess
    size = (own.size, own.size) if isinstance(own.size, int) else own.size or found.size
    if size is None:
        raise WeightsError(f"{described}: preprocess.size: Field required, because {path.name} takes any size")
    if found.size not in (None, size):
        raise WeightsError(f"{described}: preprocess.size: {path.name} is exported for {found.size}, not {size}")
    usual = PreprocessSpec(size, round(min(size) / CROP), "bilinear", IMAGENET_MEAN, IMAGENET_STD)
    return found.net, _preprocess(usual, own.model_copy(update={"size": None})), OutputSpec()


def _output(described: Path, description: _Description, usual: OutputSpec) -> OutputSpec:
    """The output that the description declares. Raises WeightsError for a field that this kind of output lacks."""
    kind = description.output or usual.kind
    fields = {"threshold": "sigmoid", "units": "linear", "background": "dense"}
    for field, of in fields.items():
        if getattr(description, field) is not None and kind != of:
            raise WeightsError(f'{described}: {field} needs output = "{of}", not "{kind}"')
    if kind == "embedding" and description.labels:
        raise WeightsError(f"{described}: an embedding has no labels: give classes, the number of its dimensions")
    labels = _labels(described, description)
    if description.units is not None and len(description.units) != len(labels):
        raise WeightsError(f"{described}: {len(description.units)} units for {len(labels)} labels")
    background = description.background
    if isinstance(background, str):
        if background not in labels:
            raise WeightsError(f"{described}: background {background!r} is not one of the labels")
        background = labels.index(background)
    if background is not None and not 0 <= background < len(labels):
        raise WeightsError(f"{described}: background is one of the classes 0 to {len(labels) - 1}, not {background}")
    return OutputSpec(
        kind,
        units=tuple(description.units or ()),
        threshold=description.threshold or usual.threshold,
        background=usual.background if background is None and kind == "dense" else background,
    )


def _read_description(path: Path) -> tuple[Path, _Description]:
    beside = [path.with_suffix(suffix) for suffix in (".toml", ".json")]
    found = next((file for file in beside if file.is_file()), None)
    if found is None:
        raise WeightsError(
            f"{path.name} needs a description beside it: {beside[0].name} or {beside[1].name}, with at least "
            "architecture and labels (docs/how-to/your-own-model.md)"
        )
    try:
        text = found.read_text("utf-8")
        return found, _Description.model_validate(tomllib.loads(text) if found.suffix == ".toml" else json.loads(text))
    except ValidationError as error:
        wrong = "; ".join(_problem(entry["loc"], entry["type"], entry["msg"]) for entry in error.errors())
        raise WeightsError(f"{found}: {wrong}") from error
    except ValueError as error:  # invalid TOML or JSON, or not UTF-8
        raise WeightsError(f"{found} can't be read: {error}") from error


def _problem(place: tuple[int | str, ...], kind: str, message: str) -> str:
    """The error at a place of the description. For an unknown field, also the known fields."""
    where = ".".join(map(str, place))
    if kind != "extra_forbidden":
        return f"{where}: {message}"
    fields = [*(_Preprocess if len(place) > 1 else _Description).model_fields]
    close = get_close_matches(str(place[-1]), fields, n=1)
    guess = f" Did you mean {close[0]}?" if close else ""
    return f"{where} is not a field.{guess} Known fields: {', '.join(fields)}"


def _labels(described: Path, description: _Description) -> tuple[str, ...]:
    labels = description.labels
    if isinstance(labels, str):
        file = described.with_name(labels)
        if not file.is_file():
            raise WeightsError(f"{described}: there is no labels file at {file}")
        try:
            labels = file.read_text("utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise WeightsError(f"{file} is not a labels file in UTF-8: {error}") from error
    labels = labels or [f"class {index}" for index in range(description.classes or 0)]
    if not labels:
        raise WeightsError(f"{described}: give labels, or at least the number of classes")
    if description.classes not in (None, len(labels)):
        raise WeightsError(f"{described}: {len(labels)} labels for {description.classes} classes")
    return tuple(labels)


def _preprocess(published: PreprocessSpec, own: _Preprocess) -> PreprocessSpec:
    """The published preprocessing with the changes of the description.

    If only the size changes, the crop keeps its share of the picture. For an oblong size the longer side decides, so
    that a square picture is large enough for the crop.
    """
    changes = own.model_dump(exclude_none=True)
    if isinstance(own.size, int):
        changes["size"] = (own.size, own.size)
    if own.size is not None and own.resize is None:
        changes["resize"] = round(max(changes["size"]) * published.resize / max(published.size))
    return PreprocessSpec(**(asdict(published) | changes))
