"""``pellucid compile``: a torch network -> the file of a compiled network."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from pellucid.network.file import SUFFIX, CompiledNetwork
from pellucid.network.spec import CROP, SOFTMAX, Interpolation, ModelSpec, OutputKind, PreprocessSpec

from .session import refuse

if TYPE_CHECKING:
    from torch import nn

# The prefixes of catalogue names, which have the form of module:Class.
_SOURCES: Final = {"torchvision", "timm", "hf", "file"}


def compile_network(
    network: Annotated[
        str,
        typer.Argument(
            help="lite0, lite2, torchvision:NAME, timm:NAME, hf:FOLDER, file:PATH, a file of torch.export (.pt2), of "
            "ONNX (.onnx) or of OpenVINO (.xml), or a class, function or network as package.module:NAME."
        ),
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="File to write; NAME.pellucid.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="The network's state dict: safetensors, what torch.save wrote, or a Lightning checkpoint."),
    ] = None,
    strip_prefix: Annotated[
        str | None, typer.Option(help="Prefix of the keys in --weights, such as model. Default: the one that fits.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="File with one label per line, or the labels separated by commas; class 0 first.")
    ] = None,
    output: Annotated[
        OutputKind | None,
        typer.Option(
            help="softmax: classes of which one applies; sigmoid: independent labels; linear: quantities; dense: a "
            "segmentation; embedding: a vector. Default: the catalogue's, or what the network itself shows."
        ),
    ] = None,
    units: Annotated[str | None, typer.Option(help="Comma-separated units of quantities, one for each label.")] = None,
    threshold: Annotated[
        float | None, typer.Option(help="The probability from which an independent label applies. Default: 0.5.")
    ] = None,
    background: Annotated[
        str | None, typer.Option(help="The class of a segmentation that is not explained by default: label or index.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Pixels of the network's input: the side of a square, or HEIGHTxWIDTH.")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, help="Pixels of the short side after resizing. Default: size / 0.875.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated means of the input channels, 0 to 1. Default: ImageNet's for 3 channels, else 0."
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Their standard deviations, in the same form. Default: ImageNet's for 3 channels, else 1."),
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="Names of the input channels, separated by commas. Default: red,green,blue, or gray."),
    ] = None,
    low: Annotated[
        str | None,
        typer.Option(
            help="Value that becomes 0: one, or one per channel. Pixels are then float32. Default: 0, 8-bit pixels."
        ),
    ] = None,
    high: Annotated[
        str | None,
        typer.Option(
            help="Value that becomes 1, in the same form. Pixels are then float32. Default: 255, 8-bit pixels."
        ),
    ] = None,
    shown: Annotated[
        str | None, typer.Option(help="The input channels that overlays are drawn on: three names, or one for gray.")
    ] = None,
    interpolation: Annotated[
        Interpolation | None, typer.Option(help="How pictures are resized. Default: bilinear.")
    ] = None,
    squash: Annotated[bool, typer.Option("--squash", help="Resize both sides, which changes the proportions.")] = False,
    arguments: Annotated[str | None, typer.Option(help="Arguments of the class or function, as a JSON object.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Name in requests. Default: the catalogue's, or the file's; --int8 adds -int8.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="A title of the network for people.")] = None,
    int8: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Run convolutions in int8, calibrated on up to 300 of these pictures."
        ),
    ] = None,
) -> None:
    """Compile a network into a file that `serve`, `explain` and `pellucid.open` run without torch.

    The class is imported with the current folder on the path; files are loaded without running code. A network of the
    catalogue brings weights, labels and preprocessing. Options replace them.

    Exit codes: 0, the file is written; 2, the network can't be compiled, or not with these options.
    """
    if find_spec("torch") is None:
        _refuse("compiling needs torch: pip install 'pellucid[compile]'")
    from pellucid.compiler import compiling
    from pellucid.compiler.files import is_file, of_file
    from pellucid.compiler.sources import named, of_class
    from pellucid.compiler.weights import load_prefixed, read_state
    from pellucid.network.file import digest_of

    given: dict[str, Any] = {
        "size": size and _size(size),
        "resize": resize,
        "mean": mean and _numbers("mean", mean),
        "std": std and _numbers("std", std),
        "channels": channels and _list(channels),
        "low": low and _numbers("low", low),
        "high": high and _numbers("high", high),
        "shown": shown and _list(shown),
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
        own, file = bool(colon) and kind not in _SOURCES, is_file(network)
        if own:
            sys.path.insert(0, os.getcwd())
            net = of_class(network, _arguments(arguments))
            described["name"] = name or out.name.removesuffix(SUFFIX)
            spec = _described(net, network, chosen, described, output)
        elif arguments:
            _refuse("--arguments needs a class; networks of the catalogue and of files bring their own")
        elif file:
            net, of_input, weights_sha256 = of_file(Path(network), chosen.get("size"))
            described["name"] = name or out.name.removesuffix(SUFFIX)
            described["title"] = title or Path(network).stem
            chosen |= {"size": of_input} if of_input else {}
            spec = replace(_described(net, network, chosen, described, output), weights_sha256=weights_sha256)
        else:
            net, spec = named(network)
            known_input = asdict(spec.preprocess)
            if known_input.pop("depth") == "uint8":  # its range is fixed; a declared one means float32
                known_input |= {"low": None, "high": None}
            spec = replace(
                spec,
                preprocess=_preprocess({**known_input, **_with_resize(chosen)}),
                **{key: value for key, value in described.items() if value},
            )
        known = spec.output if output in (None, spec.output.kind) else replace(SOFTMAX, kind=output)
        spec = replace(
            spec,
            output=compiling.declared_output(
                output or known.kind,
                spec.labels,
                known.units if units is None else _list(units),
                known.threshold if threshold is None else threshold,
                known.background if background is None else _background(background, spec.labels),
            ),
        )
        if weights:
            load_prefixed(net, read_state(weights), str(weights), strip_prefix)
            source = f"{spec.source}; weights: {weights.name}"
            spec = replace(spec, source=source, weights_sha256=digest_of(weights))
        elif own:
            typer.echo("without --weights the network keeps the weights that its constructor gave it", err=True)
        if int8 and not name:
            spec = replace(spec, name=spec.name.removesuffix("-int8") + "-int8")
        guess = (own or file) and output is None
        done = compiling.compile_network(net, spec, out, progress=True, guess=guess, any_size=True, int8=int8)
    except ValueError as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{out} can't be written: {error.strerror or error}")
    _tell(out, done)


def _tell(out: Path, done: CompiledNetwork) -> None:
    size = f"{out.stat().st_size / 1e6:.1f} MB"
    rounded = [done.model.source.rpartition("; ")[2]] if done.graph.rounded else []  # what int8 was calibrated on
    counts = _count(len(done.spec.layers), "layer"), _count(len(done.spec.gates), "gate")
    typer.echo(f"{out}: {', '.join((done.model.name, size, *counts, *rounded))}")
    for limit in done.manifest.limits:
        typer.echo(limit)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _refuse(sentence: str) -> NoReturn:
    refuse(sentence, style="red", markup=False)


def _described(
    net: nn.Module, path: str, chosen: dict[str, Any], described: dict[str, Any], output: OutputKind | None
) -> ModelSpec:
    """The spec of a class in a module of yours. Without options, all but the size and the labels are ImageNet's."""
    if "size" not in chosen or not (described["labels"] or output == "embedding"):
        missing = [] if "size" in chosen else ["--size, the pixels of its input"]
        missing += [] if described["labels"] else ["--labels, a name for each class"]
        _refuse(f"{path} is a network of your own: give {' and '.join(missing)}")
    preprocess = _preprocess({"interpolation": "bilinear", **_with_resize(chosen)})
    title = described["title"] or type(net).__name__
    return ModelSpec(described["name"], title, described["labels"] or (), preprocess, f"compiled from {path}")


def _with_resize(chosen: dict[str, Any]) -> dict[str, Any]:
    """The spec with the given options. A new size keeps the usual share of the picture, unless ``resize`` is given."""
    if "size" not in chosen or "resize" in chosen:
        return chosen
    return {**chosen, "resize": round(min(chosen["size"]) / CROP)}


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", text)
    if found is None:
        _refuse(f"--size is a number of pixels, or HEIGHTxWIDTH, not {text!r}")
    height, width = found[1], found[2] or found[1]
    return int(height), int(width)


def _preprocess(given: dict[str, Any]) -> PreprocessSpec:
    from pellucid.compiler.compiling import input_spec

    usual = {"mean": None, "std": None, "channels": (), "low": None, "high": None, "shown": ()}
    return input_spec(**usual | given)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        found = tuple(map(float, text.split(",")))
    except ValueError:
        found = ()
    if not found or (option == "std" and min(found) <= 0):
        _refuse(f"--{option} needs a number for each channel, separated by commas, not {text!r}")
    return found


def _list(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(","))


def _labels(text: str) -> tuple[str, ...]:
    try:
        if Path(text).is_file():
            return tuple(Path(text).read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        _refuse(f"--labels: {text} can't be read: {error}")
    if "," not in text and Path(text).suffix:
        _refuse(f"--labels: there is no file {text}")
    return _list(text)


def _background(text: str, labels: Sequence[str]) -> str | int:
    return int(text) if text.isdecimal() and text not in labels else text


def _arguments(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        _refuse(f"--arguments is a JSON object, not {text}")
    return dict(found)
