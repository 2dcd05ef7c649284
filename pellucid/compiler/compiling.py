"""``pellucid.compile``: a torch module -> the file of a compiled network."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from pellucid.compiler.any_size import FixedSizeError, Recorded, Size, sizes
from pellucid.compiler.any_size import any_size as sized
from pellucid.compiler.files import is_file, of_file
from pellucid.compiler.gradient.full_graph import FullGraph, record
from pellucid.compiler.int8 import pictures, quantised
from pellucid.compiler.sources import SourceError
from pellucid.compiler.trace.graph import TracedNetwork, UntraceableError
from pellucid.compiler.weights import PROGRAMS, parameters_digest
from pellucid.network.file import (
    ONE_SIZE_ONLY,
    CompiledNetwork,
    Manifest,
    NetworkFileError,
    Nodes,
    Value,
    as_json,
    save,
)
from pellucid.network.graph import PIXELS_INPUT, WANTED_INPUT, WEIGHT, Graph
from pellucid.network.layout import Layout
from pellucid.network.names import installed
from pellucid.network.spec import (
    CROP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Depth,
    Interpolation,
    ModelSpec,
    OutputKind,
    OutputSpec,
    PreprocessSpec,
    counted,
)
from pellucid.runtime import aten_to_openvino, choose, cores, torch_runtime

# The largest error of the compiled graph, relative to the largest value: above rounding, below the flip of a ReLU.
_TOLERANCE: Final = {torch.float32: 1e-3, torch.float64: 1e-8}
# The largest error of a gradient in float64, relative to its norm.
_GRADIENT_TOLERANCE: Final = 1e-2
# Of a central difference in float64, along a direction of length 1.
_STEP: Final = 1e-6
# A mean or deviation above this was computed on values from 0 to 255, not from 0 to 1.
_LARGEST_MEAN: Final = 10
# torch's words for a convolution of other channels: those of the pixels, and those that it takes.
_OTHER_CHANNELS: Final = re.compile(r"expected input\[\d+, (\d+), \d+, \d+\] to have (\d+) channels")
_STAGES: Final = ("trace", "gradients", "check", "sizes", "int8", "write")


class CompileError(ValueError):
    """A network that can't be compiled. The message names the operation at fault and what to do."""


def compile(
    net: nn.Module | str | Path,
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | None = None,
    interpolation: Interpolation = "bilinear",
    squash: bool = False,
    output: OutputKind | None = None,
    units: Sequence[str] = (),
    threshold: float = 0.5,
    background: str | int | None = None,
    channels: Sequence[str] = (),
    low: float | Sequence[float] | None = None,
    high: float | Sequence[float] | None = None,
    shown: Sequence[str] = (),
    name: str | None = None,
    title: str = "",
    source: str = "",
    int8: str | Path | None = None,
    progress: bool = True,
) -> CompiledNetwork:
    """Compile a network of pictures into the file ``path``. Serving the file needs no torch.

    ``net`` maps normalised pixels ``[B, C, H, W]`` to its output. It is copied, so your training script can keep using
    it. It may be the path of an ONNX file (``.onnx``), of OpenVINO's IR (``.xml``) or of torch.export (``.pt2``).
    ``size`` is (H, W), or the side of a square, in pixels; a file can have one of its own. ``output`` is what the
    network returns:

    - ``softmax``: the logits ``[B, classes]`` of classes of which one applies
    - ``sigmoid``: the logits ``[B, labels]`` of labels that apply independently, each from a probability of
      ``threshold``
    - ``linear``: quantities ``[B, n]``, with ``units`` if they have some
    - ``dense``: the logits ``[B, classes, h, w]`` of a segmentation. ``background`` is the class, by label or index,
      that is not explained by default.
    - ``embedding``: a vector ``[B, n]``, compared by its cosine

    Without it, an output with four axes is ``dense``, and the last operation of the network can show that it is
    ``softmax`` or ``sigmoid``. ``labels`` has one name for each class, label or quantity. An embedding has none.

    Preprocessing has three steps. The picture is resized until its short side has ``resize`` pixels (by default
    ``size`` / 0.875), or with ``squash`` both sides. The centre is cropped to ``size``. Each channel becomes
    ``((value - low) / (high - low) - mean) / std``.

    ``mean`` and ``std`` have a number for each channel, by default ImageNet's for three channels, and 0 and 1 for any
    other number. ``channels`` names 1 to 16 channels, by default red, green and blue, or gray. Without ``low`` and
    ``high`` the network takes 8-bit values, 0 to 255. With them (numbers, or one for each channel) it takes float32
    values of that range, such as those of 16-bit pictures and of arrays. ``shown`` names the channels that overlays are
    drawn on: three, as red, green and blue, or one, as gray.

    ``name`` is the network's name in requests, by default the file's name, with int8 ending in ``-int8``. ``title`` and
    ``source`` describe it to readers. ``progress`` shows a progress bar on a terminal.

    With ``int8``, a folder, convolutions run in int8 (docs/reference/numerics.md). Up to 300 pictures of the folder
    calibrate it; give such as the network will see.

    Raises CompileError, and OSError if the file can't be written.
    """
    file = Path(net) if isinstance(net, (str, Path)) and is_file(net) else None
    if not isinstance(net, nn.Module) and file is None:
        given = f"the class {net.__name__}" if isinstance(net, type) else f"a {type(net).__name__}"
        raise CompileError(
            f"net must be a module with its weights loaded, not {given}: net = Net(); net.load_state_dict(...)"
        )
    if isinstance(labels, str) or isinstance(units, str):
        text = labels if isinstance(labels, str) else units
        raise CompileError(f"labels and units must be lists with an entry for each output, not the text {text[:40]!r}")
    if output is not None and output not in get_args(OutputKind):
        raise CompileError(f"output must be one of {', '.join(get_args(OutputKind))}, not {output!r}")
    if isinstance(size, str) or interpolation not in get_args(Interpolation):
        raise CompileError(
            "size must be a number of pixels or (height, width), and interpolation one of "
            f"{', '.join(get_args(Interpolation))}; not {size!r} and {interpolation!r}"
        )
    if not all(isinstance(each, str) for each in (*labels, *units)):
        raise CompileError("labels and units must be texts")
    path = Path(path)
    sides = (size, size) if isinstance(size, int) else size
    weights_sha256 = None
    if file is not None:
        try:
            net, of_input, weights_sha256 = of_file(file, sides)
        except SourceError as error:
            raise CompileError(str(error)) from error
        sides = of_input or sides
    assert isinstance(net, nn.Module)
    if sides is None:
        raise CompileError("give size, the height and width of the network's input in pixels, or the side of a square")
    height, width = sides
    preprocess = input_spec(
        mean,
        std,
        channels,
        low,
        high,
        shown,
        size=(height, width),
        resize=resize or round(min(height, width) / CROP),
        interpolation=interpolation,
        squash=squash,
    )
    suffix = "-int8" if int8 else ""  # so that both can be served
    model = ModelSpec(
        name or path.stem.removesuffix(suffix) + suffix,
        title or (file.stem if file else type(net).__name__),
        tuple(labels),
        preprocess,
        source or f"compiled from {file.name if file else f'{type(net).__module__}.{type(net).__qualname__}'}",
        output=declared_output(output, labels, units, threshold, background),
        weights_sha256=weights_sha256,
    )
    folder = Path(int8) if int8 is not None else None
    return compile_network(net, model, path, progress=progress, guess=output is None, any_size=True, int8=folder)


def declared_output(
    kind: OutputKind | None, labels: Sequence[str], units: Sequence[str], threshold: float, background: str | int | None
) -> OutputSpec:
    """The output as declared to ``compile``. Raises CompileError."""
    if not 0 < threshold < 1:
        raise CompileError(f"threshold is a probability between 0 and 1, not {threshold}")
    if isinstance(background, str) and background not in labels:
        raise CompileError(f"background {background!r} is not among the labels")
    index = list(labels).index(background) if isinstance(background, str) else background
    return OutputSpec(kind or "softmax", units=tuple(units), threshold=threshold, background=index)


def compile_network(
    net: nn.Module,
    model: ModelSpec,
    path: Path | None,
    *,
    progress: bool = False,
    guess: bool = False,
    any_size: bool = False,
    int8: Path | None = None,
) -> CompiledNetwork:
    """Compile a network that ``model`` describes into the file ``path``, or in memory if None. See ``compile``.

    ``guess``: the kind of the output is not declared. ``any_size``: try to record a graph for pixels of any size, which
    takes longer. ``int8``: the folder of pictures that calibrate int8.
    """
    try:
        shown = pictures(int8, model.preprocess) if int8 is not None else None
    except (ValueError, OSError) as error:
        raise CompileError(f"{model.name} can't be compiled: {error}") from error
    with _progress_bar(model.name, progress) as stage:
        stage("trace")
        net = getattr(net, "_orig_mod", net)  # of torch.compile
        _require_torch(net, model.name)
        net = copy.deepcopy(net).cpu().eval().requires_grad_(False)
        if any(each.dtype in (torch.float16, torch.bfloat16) for each in net.parameters()):
            net = net.float()
        try:
            kind = None if guess else model.output.kind
            traced = TracedNetwork(net, model.preprocess.size, kind, len(model.preprocess.channels))
        except UntraceableError as error:
            _require_channels(model, str(error))
            raise CompileError(f"{model.name} can't be compiled: {error}") from error
        model = replace(model, output=_output(model, traced))
        stage("gradients")
        full, limits = _recorded(net, traced, model)
        manifest = _manifest(traced, full, replace(model, parameters_sha256=parameters_digest(net)), net)
        weights = {name: np.ascontiguousarray(value.numpy()) for name, value in full.weights.items()}
        stage("check")
        network = CompiledNetwork(manifest, full.graph, weights)
        _check(network, net, traced)
        broadcasts = _broadcasts(network, net)
        limits += _limits(manifest, full.graph)
        manifest = manifest.model_copy(update={"broadcasts": broadcasts, "limits": tuple(limits)})
        stage("sizes")
        network = CompiledNetwork(manifest, full.graph, weights)
        network = _with_any_size(network, net, traced, full) if any_size else network
        if shown is not None:
            stage("int8")
            try:
                runtime = choose.create(network, device="cpu", precision="fp32", threads=cores.available())
                network = quantised(network, runtime, shown)
            except (ValueError, OSError) as error:
                raise CompileError(f"{model.name} can't be compiled: {error}") from error
        stage("write")
        try:
            digest = save(path, network.manifest, network.graph, network.weights, network.scaled) if path else ""
        except NetworkFileError as error:
            raise CompileError(f"{model.name} can't be compiled: {error}") from error
    return replace(network, digest=digest)


def _with_any_size(network: CompiledNetwork, net: nn.Module, traced: TracedNetwork, full: FullGraph) -> CompiledNetwork:
    """The network with a graph for pixels of any size, or with a limit that says why it has none.

    ``traced`` and ``full``: the network as recorded at its own size.
    """
    model, weights = network.model, dict(network.weights)

    def recorded(size: Size) -> Recorded:
        if size == model.preprocess.size:
            return Recorded(size, traced, full)
        other = TracedNetwork(net, size, traced.kind, len(model.preprocess.channels), images=2)
        resized = replace(model, preprocess=replace(model.preprocess, size=size))
        sized_graph, limits = _recorded(net, other, resized)
        if limits and network.manifest.pixels.gradient:
            raise FixedSizeError("it has no gradient at another size")
        weights.update({name: np.ascontiguousarray(value.numpy()) for name, value in sized_graph.weights.items()})
        return Recorded(size, other, sized_graph)

    try:
        if traced.kind == "dense":
            raise FixedSizeError("its output is a segmentation")
        found, graph = sized(recorded, model.preprocess.size, traced)
        manifest = network.manifest.model_copy(update={"any_size": found})
        named = {*network.weights, *(node.args[0] for node in graph.nodes.values() if node.op == WEIGHT)}
        weights = {name: value for name, value in weights.items() if name in named}
        whole = CompiledNetwork(manifest, network.graph, weights, scaled=as_json(graph))
        size = sizes(model.preprocess.size)[2]
        _check(whole.at(size), net, TracedNetwork(net, size, traced.kind, len(model.preprocess.channels), images=2))
    except Exception as error:  # a network can raise anything at another size
        limit = f"{ONE_SIZE_ONLY}{(str(error) or type(error).__name__).splitlines()[0].rstrip('.')}"
        limits = (*network.manifest.limits, limit)
        return replace(network, manifest=network.manifest.model_copy(update={"limits": limits}))
    return whole


def _require_torch(net: nn.Module, name: str) -> None:
    """Raise CompileError for a module whose operations or weights can't be read."""
    if isinstance(net, torch.jit.ScriptModule):
        raise CompileError(f"{name} {PROGRAMS['TorchScript']}")
    if any(nn.parameter.is_lazy(each) for each in (*net.parameters(), *net.buffers())):
        raise CompileError(f"{name} has lazy layers without weights: run it once on pixels before it is compiled")
    kinds = {type(each).__name__ for each in net.modules() if ".quantized." in type(each).__module__}
    if kinds:
        raise CompileError(
            f"{name} is quantized ({', '.join(sorted(kinds))}), which has no useful gradient: give the network before "
            "quantization"
        )


# The class at a position is kept in 8 bits.
_MOST_DENSE: Final = 256


def _output(model: ModelSpec, traced: TracedNetwork) -> OutputSpec:
    """The declared output with the traced kind and shape. Raises CompileError if labels or units do not fit."""
    output = replace(model.output, kind=traced.kind, shape=traced.shape)
    count = traced.shape[0]
    labelled = 0 if traced.kind == "embedding" else count
    if len(model.labels) != labelled:
        need = counted(count, traced.kind) if labelled else "an embedding, which has no labels"
        raise CompileError(f"{model.name} has {need}, and {len(model.labels)} labels are given")
    if output.units and (traced.kind != "linear" or len(output.units) != count):
        raise CompileError(
            f"only the output linear has units, one for each of its quantities, not {list(output.units)}"
        )
    if output.background is not None and not (traced.kind == "dense" and 0 <= output.background < count):
        raise CompileError(
            f"only the output dense has a background, one of its classes, not {output.background} of {traced.kind}"
        )
    if traced.kind == "dense" and count > _MOST_DENSE:
        raise CompileError(f"{model.name} has {count} classes at each position; at most {_MOST_DENSE} are supported")
    return output


def input_spec(
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    channels: Sequence[str],
    low: float | Sequence[float] | None,
    high: float | Sequence[float] | None,
    shown: Sequence[str],
    **frame: Any,
) -> PreprocessSpec:
    """The preprocessing that ``compile`` documents. ``frame`` has its other fields. Raises CompileError."""
    if isinstance(channels, str) or isinstance(shown, str):
        raise CompileError("channels and shown are lists of names, such as ['red', 'green', 'blue']")
    count = next((len(given) for given in (mean, std, channels) if given is not None and len(given)), 3)
    usual = (IMAGENET_MEAN, IMAGENET_STD) if count == 3 else ((0.0,) * count, (1.0,) * count)
    means, stds = (
        _floats(default if given is None else given) for given, default in zip((mean, std), usual, strict=True)
    )
    plain = low is None and high is None
    if max(map(abs, (*means, *stds)), default=0) > _LARGEST_MEAN:
        advice = "divide them by 255" if plain else "they are of (value - low) / (high - low)"
        raise CompileError(f"mean and std must be those of values from 0 to 1, not {means} and {stds}: {advice}")
    limits = [_floats(given) for given in (0 if low is None else low, 255 if high is None else high)]
    lows, highs = (limit * count if len(limit) == 1 else limit for limit in limits)
    depth: Depth = "uint8" if plain else "float32"
    try:
        return PreprocessSpec(
            **frame,
            mean=means,
            std=stds,
            channels=tuple(channels),
            low=lows,
            high=highs,
            depth=depth,
            shown=tuple(shown),
        )
    except ValueError as error:
        raise CompileError(str(error)) from error


def _floats(values: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, np.ravel(values)))


def _require_channels(model: ModelSpec, error: str) -> None:
    """Raise CompileError if a network's ``error`` is that of a convolution which takes other channels than declared."""
    names = model.preprocess.channels
    found = _OTHER_CHANNELS.search(error)
    if found and int(found[1]) == len(names):
        plural = "" if found[2] == "1" else "s"
        raise CompileError(
            f"{model.name} takes {found[2]} channel{plural}, not {len(names)} ({', '.join(names)}): give mean and std "
            "with a number for each"
        )


@contextmanager
def _progress_bar(name: str, progress: bool) -> Iterator[Callable[[str], None]]:
    with tqdm(
        total=len(_STAGES),
        desc=f"compiling {name}",
        disable=None if progress else True,  # None: no bar in a file of logs
        bar_format="{desc} {bar} {n_fmt}/{total_fmt} {postfix} {elapsed}",
    ) as bar:

        def stage(now: str) -> None:
            bar.n = _STAGES.index(now)
            bar.set_postfix_str(now)

        yield stage
        bar.n = len(_STAGES)
        bar.set_postfix_str("done")


def _recorded(net: nn.Module, traced: TracedNetwork, model: ModelSpec) -> tuple[FullGraph, list[str]]:
    """The graph and its limits. If gradients can't be recorded, the graph has none, and a limit says why."""
    scores = traced.block_scores()
    names = [*traced.values(), *scores]
    forward = traced.trunk((*names, traced.logits))
    shape = model.preprocess.shape
    named = (PIXELS_INPUT, *names)
    top_class = model.output.kind in ("softmax", "sigmoid")
    reason = ""
    # If LeGrad's scores can't be recorded, the other gradients may be.
    for own in (scores, dict.fromkeys(scores)) if any(scores.values()) else (scores,):
        try:
            return record(forward, named, net, shape, model.scalars, top_class=top_class, scores=own), []
        except Exception as error:  # an operation without a derivative, or its formula, can raise anything
            reason = f"{type(net).__name__} has no gradient: {str(error).splitlines()[0]}"
    try:
        return record(forward, named, net, shape, model.scalars, gradients=False, scores=scores), [
            f"methods that need a gradient are not offered: {reason}"
        ]
    except Exception as error:
        advice = ", as nn.GRU and nn.LSTM do: use torch.cat or torch.where" if "writes to a part" in str(error) else ""
        raise CompileError(f"{model.name} can't be compiled: {str(error).splitlines()[0]}{advice}") from error


def _manifest(traced: TracedNetwork, full: FullGraph, model: ModelSpec, net: nn.Module) -> Manifest:
    def value(name: str, layout: Layout, linear: str | None = None) -> Value:
        return Value(full.values[name], full.gradients[name], layout, linear)

    def nodes(name: str) -> Nodes:
        return Nodes(full.values[name], full.gradients[name])

    height, width = model.preprocess.size
    parameters = {name for name, _ in net.named_parameters()}
    return Manifest(
        model=model,
        network=traced.spec,
        logits=full.logits,
        pixels=value(PIXELS_INPUT, Layout("BCHW", height, width)),
        values={
            layer.name: value(traced.value(layer.name), traced.layout(layer.name), traced.linear(layer.name))
            for layer in traced.spec.layers
        },
        gate_values={gate: nodes(weights) for gate, weights in traced.gates.items()},
        spatial_gate_values={gate: nodes(weights) for gate, weights in traced.spatial_gates.items()},
        attention_values={name: nodes(matrix) for name, matrix in traced.attentions.items()},
        broadcasts=False,
        buffers=tuple(name for name in full.weights if name not in parameters),
        versions=dict(installed(("pellucid", "torch", "torchvision", "timm"))),
    )


def _inputs(manifest: Manifest, net: nn.Module) -> tuple[Tensor, Tensor]:
    """Two seeded images, and the weights of the logits for two gradients."""
    kind = next((value.dtype for value in net.parameters()), torch.float32)
    images = torch.randn(2, *manifest.model.preprocess.shape, generator=torch.Generator().manual_seed(2)).to(kind)
    wanted = torch.zeros(2, manifest.model.scalars, dtype=kind)
    wanted[0, -1], wanted[1, 0] = 1, 1
    return images, wanted


def _built(network: CompiledNetwork) -> Callable[..., list[Tensor]]:
    """A function of images and wanted logits: the logits, and their gradients at the pixels and at each attention."""
    manifest = network.manifest
    gradients = [manifest.pixels.gradient, *(each.gradient for each in manifest.attention_values.values())]
    outputs = (manifest.logits, *(name for name in gradients if name is not None))
    part = network.graph.part((PIXELS_INPUT, WANTED_INPUT), outputs)
    return torch_runtime.build(part, network.weights, torch.device("cpu"), None)


def _check(network: CompiledNetwork, net: nn.Module, traced: TracedNetwork) -> None:
    """Compare the compiled graph with the network, and its gradients with autograd's.

    Raises CompileError if the logits differ, or the gradients with respect to the pixels, which depend on every layer.
    """
    manifest = network.manifest
    images, wanted = _inputs(manifest, net)
    with torch.no_grad():
        (expected,), (logits, *_) = traced.trunk((traced.logits,))(images), _built(network)(images, wanted)
    scale = float(expected.abs().max()) + 1e-12
    off = float((logits - expected).abs().max()) / scale
    if not off <= _TOLERANCE[images.dtype]:
        raise CompileError(
            f"{manifest.model.name}: the compiled graph computes other logits (by {off:.1e} of the largest)"
        )
    if manifest.pixels.gradient is not None:
        _check_gradient(network, traced, images[:1], wanted[:1])


def _broadcasts(network: CompiledNetwork, net: nn.Module) -> bool:
    """Whether one run can compute the gradients of several classes for one image."""
    if network.manifest.pixels.gradient is None:
        return True
    images, wanted = _inputs(network.manifest, net)
    run = _built(network)
    try:
        with torch.no_grad():
            of_one = run(images[:1], wanted)[1:]
            rows = zip(*(run(images[:1], row[None])[1:] for row in wanted), strict=True)
    except Exception:  # an operation that does not broadcast one image over two gradients can raise anything
        return False
    for both, each in zip(of_one, rows, strict=True):
        scale = max(float(row.abs().max()) for row in each) + 1e-12
        if both.shape != (2, *each[0].shape[1:]):
            return False
        if not float((both - torch.cat(each)).abs().max()) / scale < _TOLERANCE[images.dtype]:
            return False
    return True


def _is_derivative(gradient: Tensor, other: Tensor, function: Callable[[Tensor], Any], x: Tensor, rows: Tensor) -> bool:
    """Whether ``gradient`` and not the ``other`` is that of rows . y, where ``function(x)`` is (y,).

    A central difference tells, along the direction in which the two disagree.

    Autograd through a traced graph is wrong for some networks (timm's LeViT and EfficientFormer).
    """
    apart = gradient - other
    along = apart / apart.norm()
    with torch.no_grad():
        (ahead,), (behind,) = (function(x + step * along) for step in (_STEP, -_STEP))
    slope = float(((ahead - behind) * rows).sum()) / (2 * _STEP)
    return abs(slope - float((gradient * along).sum())) <= 1e-3 * float(apart.norm())


def _check_gradient(network: CompiledNetwork, traced: TracedNetwork, images: Tensor, wanted: Tensor) -> None:
    """Compare the gradient with respect to the pixels with torch's autograd. Raises CompileError if they differ.

    Runs in float64: in float32, rounding alone can change the gradient of a deep network.
    """
    manifest = network.manifest
    doubles = {name: each.astype(np.float64) for name, each in network.weights.items() if each.dtype.kind == "f"}
    part = network.graph.part((PIXELS_INPUT, WANTED_INPUT), (manifest.pixels.gradient or "",))
    leaf, rows = images.double().requires_grad_(), wanted.double()
    try:
        # The traced graph, because the network itself may detach values.
        trunk = traced.trunk((traced.logits,))
        state = {**dict(trunk.named_parameters()), **dict(trunk.named_buffers())}
        state = {name: each.double() if each.is_floating_point() else each for name, each in state.items()}
        exact = partial(torch.func.functional_call, trunk, state)
        (logits,) = exact(leaf)
        (expected,) = torch.autograd.grad((logits * rows).sum(), leaf)
        with torch.no_grad():
            (found,) = torch_runtime.build(part, {**network.weights, **doubles}, torch.device("cpu"), None)(leaf, rows)
    except RuntimeError:  # an operation that creates float32 numbers can't run in float64
        return
    off = float((found - expected).norm() / (expected.norm() + 1e-30))
    if (
        not off <= _GRADIENT_TOLERANCE
        and expected.any()
        and not _is_derivative(found, expected, exact, leaf.detach(), rows)
    ):
        raise CompileError(
            f"{manifest.model.name}: the compiled graph computes other gradients than torch's autograd (by {off:.1e})"
        )


def _limits(manifest: Manifest, graph: Graph) -> list[str]:
    """Sentences that name the operations which OpenVINO does not support."""

    def missing(outputs: Sequence[str]) -> str:
        return ", ".join(aten_to_openvino.unsupported(graph.nodes[name] for name in graph.ancestors(outputs)))

    if operations := missing([manifest.logits]):
        return [f"OpenVINO can't run the network, torch can: {operations}"]
    if operations := missing([value.gradient for value in manifest.values.values() if value.gradient]):
        return [f"OpenVINO can't compute the gradients at every layer, torch can: {operations}"]
    return []
