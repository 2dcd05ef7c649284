"""``pellucid compile``: a torch network -> the file of a compiled network."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from pellucid.network.file import SUFFIX, CompiledNetwork
from pellucid.network.spec import Interpolation, ModelSpec, PreprocessSpec

from .session import console

if TYPE_CHECKING:
    from torch import nn

_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
# The prefixes of catalogue names, which have the form of module:Class.
_SOURCES: Final = {"torchvision", "timm", "file"}
_IMPORTED: Final = (".onnx", ".xml")


def compile_network(
    network: Annotated[
        str,
        typer.Argument(
            help="lite0, torchvision:NAME, timm:NAME, file:PATH, an .onnx or .xml file (ONNX, OpenVINO), or a class as "
            "package.module:Class."
        ),
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="File to write; NAME.pellucid.")],
    weights: Annotated[
        Path | None, typer.Option(help="State dict of the network: safetensors, or what torch.save wrote of it.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="File with one label a line, or the labels between commas; class 0 first.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels of the network's input: the side of a square, or HEIGHTxWIDTH.")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, help="Pixels that the short side becomes. Default: size / 0.875.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Of each channel, 0 to 1, between commas. Default: ImageNet's.")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Of each channel, 0 to 1, between commas. Default: ImageNet's.")
    ] = None,
    interpolation: Annotated[
        Interpolation | None, typer.Option(help="How pictures are resized. Default: bilinear.")
    ] = None,
    squash: Annotated[bool, typer.Option("--squash", help="Resize both sides, whatever the picture's shape.")] = False,
    arguments: Annotated[
        str | None, typer.Option(help="Arguments of the class's constructor, as a JSON object.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What requests call the network. Default: that of the catalogue, or the file's.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="What the network is, for people to read.")] = None,
) -> None:
    """Compile a network into a file that `serve`, `explain` and `pellucid.open` run without torch.

    The class is imported with the current folder on the path; its weights are loaded without running code. A network
    of the catalogue brings weights, labels and preprocessing; what is given here stands in their place.

    Exit codes: 0, the file is written; 2, the network can't be compiled, or not as asked.
    """
    if find_spec("torch") is None:
        _refuse("compiling needs torch: pip install 'pellucid[compile]'")
    from pellucid.compiler import compiling
    from pellucid.compiler.imported.read import read, weights_file
    from pellucid.compiler.sources import named, of_class
    from pellucid.compiler.weights import digest, load_strict, read_state

    given = {
        "size": size and _size(size),
        "resize": resize,
        "mean": mean and _three("mean", mean),
        "std": std and _three("std", std),
        "interpolation": interpolation,
        "squash": squash or None,
    }
    chosen = {key: value for key, value in given.items() if value}
    if name is not None and ("/" in name or not name.strip(" .") or not name.isprintable()):
        _refuse(f"{name!r} can't be the name in /v1/models/NAME: it needs letters, and no slash")
    net: nn.Module
    described: dict[str, Any] = {"name": name, "labels": labels and _labels(labels), "title": title}
    try:
        kind, colon, _ = network.partition(":")
        if network.endswith(_IMPORTED):
            if weights or arguments:
                _refuse(f"{network} has its weights and its form: --weights and --arguments are of a class")
            net, side = read(network, _size(size) if size else None)
            described["name"] = name or out.name.removesuffix(SUFFIX)
            described["title"] = title or Path(network).stem
            spec = _described(net, network, {**chosen, "size": side}, described)
            spec = replace(spec, weights_sha256=digest(weights_file(network)))
        elif colon and kind not in _SOURCES:
            sys.path.insert(0, os.getcwd())
            net = of_class(network, _arguments(arguments))
            described["name"] = name or out.name.removesuffix(SUFFIX)
            spec = _described(net, network, chosen, described)
        else:
            if arguments:
                _refuse("--arguments are of a class, and a name of the catalogue has its own")
            net, spec = named(network)
            spec = replace(
                spec,
                preprocess=replace(spec.preprocess, **_with_resize(chosen)),
                **{key: value for key, value in described.items() if value},
            )
        if weights:
            load_strict(net, read_state(weights), str(weights))
            source = f"{spec.source}; weights: {weights.name}"
            spec = replace(spec, source=source, weights_sha256=digest(weights))
        elif colon and kind not in _SOURCES and not network.endswith(_IMPORTED):
            typer.echo("without --weights the network has those that its constructor gave it", err=True)
        done = compiling.compile_network(net, spec, out, progress=True)
    except ValueError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{out} can't be written: {error.strerror or error}")
    _tell(out, done)


def _tell(out: Path, done: CompiledNetwork) -> None:
    size = out.stat().st_size / 1e6
    typer.echo(
        f"{out}: {size:.1f} MB, {_count(len(done.spec.layers), 'layer')}, {_count(len(done.spec.gates), 'gate')}"
    )
    for limit in done.manifest.limits:
        typer.echo(limit)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _refuse(sentence: str) -> NoReturn:
    console.print(sentence, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(2)


def _described(net: nn.Module, path: str, chosen: dict[str, Any], described: dict[str, Any]) -> ModelSpec:
    """The spec of a class in a module of yours. Without options, all but the size and the labels are ImageNet's."""
    if "size" not in chosen or not described["labels"]:
        _refuse(
            f"{path} is a network of yours: give --size, the pixels of its input, and --labels, a name for each class"
        )
    usual = {"interpolation": "bilinear", "mean": _MEAN, "std": _STD}
    preprocess = PreprocessSpec(**{**usual, **_with_resize(chosen)})
    title = described["title"] or type(net).__name__
    return ModelSpec(described["name"], title, described["labels"], preprocess, f"compiled from {path}")


def _with_resize(chosen: dict[str, Any]) -> dict[str, Any]:
    """The spec with the given options. A new size keeps the usual share of the picture, unless ``resize`` is given."""
    if "size" not in chosen or "resize" in chosen:
        return chosen
    return {**chosen, "resize": round(min(chosen["size"]) / 0.875)}


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if found is None:
        _refuse(f"--size is a number of pixels, or HEIGHTxWIDTH, not {text!r}")
    height, width = found[1], found[2] or found[1]
    return int(height), int(width)


def _three(option: str, text: str) -> tuple[float, ...]:
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if len(found) != 3 or (option == "std" and min(found) <= 0):
        _refuse(f"--{option} has a number for each of the three channels, between commas, not {text!r}")
    return found


def _labels(text: str) -> tuple[str, ...]:
    try:
        if Path(text).is_file():
            return tuple(Path(text).read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        _refuse(f"--labels: {text} can't be read: {error}")
    if "," not in text and Path(text).suffix:
        _refuse(f"--labels: there is no file {text}")
    return tuple(label.strip() for label in text.split(","))


def _arguments(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        _refuse(f"--arguments is a JSON object, not {text}")
    return dict(found)
