"""Which networks Pellucid can explain: each one compiled, run by both runtimes, and compared with captum.

``python -m tests.survey`` writes docs/reference/networks.md. Weights are random and seeded.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from pellucid.compiler.compiling import CompileError, compile_network
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.network.file import CompiledNetwork, Value
from pellucid.network.layout import Layout
from pellucid.network.spec import ModelSpec, PreprocessSpec
from pellucid.runtime.aten_to_openvino import UnsupportedError
from pellucid.runtime.openvino_runtime import OpenVINORuntime
from pellucid.runtime.torch_runtime import TorchRuntime
from pellucid.types import Array, Pixels
from tests.compiler.recorded import in_float32
from tests.surveyed import CLASSES, Entry, entries

# Of a map's, a gate's or the logits' largest value.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}  # torch's own hardswish has a constant of float32 in float64
OPENVINO_TOLERANCE = 1e-3  # of the logits in float32
LEAST_COSINE = 0.999  # of a Grad-CAM of OpenVINO's in float32 and captum's
AS_FAR = 10  # times as far as torch is in float32, where that is further
BATCHES = (1, 3)
LARGE = 150_000_000  # parameters; a larger network is examined in float32


@dataclass
class Row:
    """What was measured of one network. ``errors`` holds what differs or fails, by what was compared."""

    name: str
    size: int
    layers: int = 0
    logits: float = math.nan  # how far the graph's are from the plain network's
    gradients: str = "none"  # who computes them: OpenVINO or torch
    several: bool = False  # the gradients of several classes come in one pass of one image
    gates: dict[str, int] = field(default_factory=dict)
    gates_wrong: int = 0
    ungated: int = 0
    cams: list[tuple[str, str, float]] = field(default_factory=list)
    closed_form: bool = False
    openvino: float = math.nan  # how far OpenVINO's logits are from the plain network's
    openvino_cam: float = math.nan  # the same of its Grad-CAM and captum's
    cosine: float = math.nan
    float32: bool = False  # torch is as far off in float32: the network's doing, not OpenVINO's
    limits: tuple[str, ...] = ()
    errors: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0  # it took to compile


def random_network(make: Callable[[], nn.Module], size: int) -> nn.Module:
    """The network with seeded weights: what is initialised with zeros gets others, and its norms fit seeded noise."""
    torch.manual_seed(0)
    net = make()
    if sum(parameter.numel() for parameter in net.parameters()) <= LARGE:
        net = net.double()
    for name, parameter in net.named_parameters():
        if not parameter.any() and not name.endswith("bias"):
            nn.init.normal_(parameter, std=0.05) if parameter.ndim > 1 else nn.init.ones_(parameter)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(_noise(4, size).to(next(net.parameters())))
    return net.eval().requires_grad_(False)


def examine(entry: Entry) -> Row:
    """Compile one network and compare all that the runtimes make of it."""
    row = Row(entry.name, entry.size)
    net = random_network(entry.make, entry.size)
    spec = PreprocessSpec((entry.size, entry.size), entry.size, "bilinear", (0.5,) * 3, (0.25,) * 3)
    model = ModelSpec("surveyed", "", tuple(map(str, range(CLASSES))), spec, "")
    started = time.perf_counter()
    try:
        network = compile_network(net, model, None)
    except CompileError as error:
        row.errors["compiles"] = str(error)
        return row
    row.seconds = time.perf_counter() - started
    row.limits = network.manifest.limits
    row.layers = len(network.spec.layers)
    images = _images(entry.size)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).to(next(net.parameters()).dtype)
    pixels = (pixels / 255 - 0.5) / 0.25
    factors = _Factors()
    with torch.no_grad(), factors:
        expected = net(pixels)
    maps = _compare_torch(row, net, network, images, pixels, expected, factors)
    del net
    _compare_openvino(row, network, images, expected.numpy(), maps)
    return row


def _images(size: int) -> Pixels:
    """Noise like that which the norms were fitted to, once it is normalised."""
    noise = np.random.default_rng(0).normal(127.5, 255 / 4, (max(BATCHES), size, size, 3))
    return noise.clip(0, 255).astype(np.uint8)


def _noise(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _difference(found: Any, expected: Any) -> float:
    """The largest difference, relative to the largest value expected; nan where there is nothing but zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(abs(np.asarray(found) - np.asarray(expected)).max() / abs(np.asarray(expected)).max())


def grad_cam(value: Value, outputs: dict[str, Array]) -> Array:
    """Grad-CAM before its ReLU ``[B, h, w]``: the value's channels, each weighted by its gradient's mean."""
    assert value.gradient is not None
    gradient, maps = (value.layout.to_map(outputs[name]) for name in (value.gradient, value.node))
    found: Array = np.einsum("bc,bchw->bhw", gradient.mean((2, 3)), maps)
    return found


# -- gates: what multiplies channels in the plain network


class _Factors(TorchFunctionMode):
    """Records every product of maps with one number per image and channel, in the plain network as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "").strip("_")
        if name in ("mul", "imul", "rmul", "multiply") and len(args) == 2:
            for gated, factor in (args, args[::-1]):
                if isinstance(gated, Tensor) and isinstance(factor, Tensor) and _scales_channels(factor, gated):
                    self.found.append(_once(factor).flatten(1).clone())
                    break
        return func(*args, **(kwargs or {}))

    def take(self, value: Tensor, tolerance: float) -> bool:
        """Whether such a factor was recorded; each one counts once."""
        for i, factor in enumerate(self.found):
            if factor.shape == value.flatten(1).shape and _difference(value.flatten(1), factor) <= tolerance:
                del self.found[i]
                return True
        return False


def _scales_channels(factor: Tensor, gated: Tensor) -> bool:
    if gated.ndim < 4 or factor.ndim != gated.ndim or factor.shape[0] != gated.shape[0]:
        return False
    shape, whole = _once(factor).shape, gated.shape
    first = shape[1:-2] == whole[1:-2] and shape[-2:] == (1, 1) and whole[-2:].numel() > 1
    last = gated.ndim == 4 and shape[1:3] == (1, 1) and shape[3] == whole[3] and whole[1:3].numel() > 1
    return first or last


def _once(factor: Tensor) -> Tensor:
    """A factor without the repetitions that ``expand`` made."""
    return factor[tuple(slice(1) if stride == 0 else slice(None) for stride in factor.stride())]


# -- the graph under torch, in float64


def _compare_torch(
    row: Row,
    net: nn.Module,
    network: CompiledNetwork,
    images: Pixels,
    pixels: Tensor,
    expected: Tensor,
    factors: _Factors,
) -> Array | None:
    """Fills the row, and returns captum's maps at the default layer ``[B, h, w]``."""
    manifest, spec, tolerance = network.manifest, network.spec, TOLERANCE[pixels.dtype]
    layers = dict.fromkeys((spec.default_layer, spec.feature_layers[1])) if spec.default_layer else {}
    shown = {layer: manifest.values[layer] for layer in layers if manifest.values[layer].gradient}
    gates = [gate.node for gate in manifest.gate_values.values()]
    wanted = np.zeros((len(images), CLASSES), np.float32)  # the top class
    outputs = [manifest.logits, *gates]
    outputs += [name for value in shown.values() for name in (value.node, value.gradient or "")]
    runtime = TorchRuntime(network, torch.device("cpu"))
    found, _ = runtime.run(images, wanted if shown else None, outputs, "whole")
    row.logits = _difference(found[manifest.logits], expected)
    if not row.logits <= tolerance:
        row.errors["logits"] = f"the logits differ by {row.logits:.0e}"
    row.gates = dict(Counter(gate.type for gate in spec.gates))
    row.gates_wrong = sum(not factors.take(torch.from_numpy(found[name]), tolerance) for name in gates)
    row.ungated = len(factors.found)
    if row.gates_wrong:
        row.errors["gates"] = f"{row.gates_wrong} gates are not what multiplied the channels"
    if not spec.default_layer:
        row.errors["layers"] = spec.default_layer_reason
    row.closed_form = bool(layers) and manifest.values[spec.default_layer].linear is not None
    targets = expected.argmax(1).tolist()
    maps: dict[str, Array] = {}
    for layer, value in shown.items():
        against, maps[layer] = oracle(net, network, layer, pixels, targets)
        wrong = _difference(grad_cam(value, found), maps[layer])
        row.cams.append((layer, against, wrong))
        if not wrong <= tolerance:
            row.errors["Grad-CAM"] = f"Grad-CAM at {layer} differs from captum's by {wrong:.0e} of its maximum"
    if shown and manifest.broadcasts:
        row.several = True
        classes = np.eye(CLASSES, dtype=np.float32)[:2]
        names = [value.gradient or "" for value in shown.values()]
        at_once, _ = runtime.run(images[:1], classes, names, "whole")
        for number, each in enumerate(classes):
            alone, _ = runtime.run(images[:1], each[None], names, "whole")
            if not all(_difference(at_once[name][number], alone[name][0]) <= tolerance for name in names):
                row.errors["several"] = "the gradients of two classes at once are not those of each"
    return maps.get(spec.default_layer)


def oracle(
    net: nn.Module, network: CompiledNetwork, layer: str, pixels: Tensor, targets: Sequence[int]
) -> tuple[str, Array]:
    """What captum was given, and its maps ``[B, h, w]`` for each image's class in ``targets``."""
    probe, layout = nn.Identity(), network.manifest.values[layer].layout
    if layer in dict(net.named_modules()):
        with _probed(net, layer, layout, probe):
            return "captum", _captum(net, probe, pixels, targets)
    # An operation without a module: captum can hook none, so it is given the traced network with one behind it.
    traced = TracedNetwork(net, network.model.preprocess.size)
    trunk = traced.trunk((traced.value(layer), traced.logits))
    trunk.add_module("seen", _Seen(layout, probe))
    output: Any = trunk.graph.output_node()
    value, logits = output.args[0]
    with trunk.graph.inserting_after(value):
        seen = trunk.graph.call_module("seen", (value,))
    value.replace_all_uses_with(seen)
    seen.args = (value,)
    output.args = (logits,)
    trunk.recompile()
    return "captum on the traced network", _captum(trunk, probe, pixels, targets)


def _captum(net: nn.Module, layer: nn.Module, pixels: Tensor, targets: Sequence[int]) -> Array:
    maps: Tensor = LayerGradCam(net, layer).attribute(pixels.clone().requires_grad_(), target=[*targets])
    found: Array = maps.detach()[:, 0].numpy()
    return found


class _Seen(nn.Module):
    """Hands a value on, and shows it to ``probe`` as a map ``[B, C, h, w]``.

    What follows gets a copy: an in-place operation would change what captum recorded.
    """

    def __init__(self, layout: Layout, probe: nn.Module) -> None:
        super().__init__()
        self._layout, self._probe = layout, probe

    def forward(self, value: Tensor) -> Tensor:
        layout = self._layout
        if layout.axes == "BHWC":
            return self._probe(value.permute(0, 3, 1, 2).clone()).permute(0, 2, 3, 1).clone()  # type: ignore[no-any-return]
        if layout.axes == "BPCHW":
            return self._probe(value.flatten(1, 2).clone()).reshape(value.shape).clone()  # type: ignore[no-any-return]
        if layout.axes == "BCN":
            return self._probe(value.reshape(*value.shape[:2], layout.height, layout.width)).flatten(2)  # type: ignore[no-any-return]
        if layout.axes == "BNC":
            grid = value[:, layout.extra :].mT.reshape(len(value), -1, layout.height, layout.width)
            return torch.cat((value[:, : layout.extra], self._probe(grid).flatten(2).mT), 1)
        return self._probe(value.clone()).clone()  # type: ignore[no-any-return]


class _probed:
    """While it lasts, ``probe`` sees what the module ``layer`` returns at its first run."""

    def __init__(self, net: nn.Module, layer: str, layout: Layout, probe: nn.Module) -> None:
        self._seen = _Seen(layout, probe)
        self._ran = False
        self._handles = (
            net.register_forward_pre_hook(self._begin),
            net.get_submodule(layer).register_forward_hook(self._see),
        )

    def _begin(self, *_: Any) -> None:
        self._ran = False

    def _see(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        if self._ran:
            return None
        self._ran = True
        return self._seen(output)  # type: ignore[no-any-return]

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


# -- the graph under OpenVINO, in float32


def _compare_openvino(row: Row, network: CompiledNetwork, images: Pixels, expected: Array, maps: Array | None) -> None:
    """Logits and Grad-CAM at the default layer, alone and in a batch."""
    narrow = CompiledNetwork(network.manifest, *in_float32(network.graph, network.weights))
    value = network.manifest.values[network.spec.default_layer] if maps is not None else None
    row.gradients = "none" if value is None else "torch" if row.limits else "OpenVINO"
    if row.gradients == "torch":
        value = None
    try:
        runtime = OpenVINORuntime(narrow, bf16=False, threads=1)
        row.openvino, row.openvino_cam, row.cosine = _in_batches(runtime, value, images, expected, maps)
    except UnsupportedError as error:
        if not any(str(error) in limit for limit in row.limits):
            row.errors["OpenVINO"] = f"OpenVINO has no {error}"
        return
    if row.openvino <= OPENVINO_TOLERANCE and not row.cosine < LEAST_COSINE:
        return
    logits, _, cosine = _in_batches(TorchRuntime(narrow, torch.device("cpu")), value, images, expected, maps)
    row.float32 = row.openvino <= AS_FAR * logits and not 1 - row.cosine > AS_FAR * (1 - cosine)
    if not row.float32:
        row.errors["OpenVINO"] = (
            f"OpenVINO's logits differ by {row.openvino:.0e}, the cosine of maps is {row.cosine:.4f}"
        )


def _in_batches(
    runtime: OpenVINORuntime | TorchRuntime, value: Value | None, images: Pixels, expected: Array, maps: Array | None
) -> tuple[float, float, float]:
    """The largest difference of logits and of maps, and the least cosine of maps; nan without a ``value``."""
    logits_name = runtime.network.manifest.logits
    outputs = [logits_name, *([value.node, value.gradient or ""] if value is not None else [])]
    logits, cams, cosines = [], [math.nan], [math.nan]
    for count in BATCHES:
        wanted = np.zeros((count, CLASSES), np.float32) if value is not None else None
        found, _ = runtime.run(images[:count], wanted, outputs, "whole")
        logits.append(_difference(found[logits_name], expected[:count]))
        if maps is not None and value is not None:
            for one, other in zip(grad_cam(value, found), maps[:count], strict=True):
                cams.append(_difference(one, other))
                cosines.append(_cosine(one, other))
    return max(logits), float(np.nanmax(cams)) if cams[1:] else math.nan, min(cosines[1:], default=math.nan)


def _cosine(one: Array, other: Array) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float((one * other).sum() / np.sqrt((one * one).sum() * (other * other).sum()))


# -- the table


def line(row: Row) -> str:
    """One row of the table in Markdown."""
    gates = ", ".join(f"{count} {kind}" for kind, count in row.gates.items()) or "none"
    cams = "; ".join(f"`{layer}` {wrong:.0e}{'' if oracle == 'captum' else '*'}" for layer, oracle, wrong in row.cams)
    differs = [f"{each:.0e}" for each in (row.openvino, row.openvino_cam) if not math.isnan(each)]
    differs += ["as torch"] if row.float32 else []
    cells = (
        f"`{row.name}`",
        str(row.size),
        str(row.layers),
        row.gradients,
        "yes" if row.several else "no",
        f"{gates}{f' (+{row.ungated})' if row.ungated else ''}",
        f"{cams}{' (closed form)' if row.closed_form else ''}" or "none",
        "; ".join(differs) or "can't",
        "; ".join((*row.errors.values(), *row.limits)).replace("|", "/").replace("\n", " ") or "✓",
    )
    return f"| {' | '.join(cells)} |"


def _examine_or_say_why(entry: Entry) -> Row:
    try:
        return examine(entry)
    except Exception as error:  # a table of what works must survive what doesn't
        return Row(entry.name, entry.size, errors={"runs": f"{type(error).__name__}: {str(error)[:200]}"})


def _path(entry: Entry, folder: Path) -> Path:
    return folder / f"{entry.library}-{entry.name.replace(' ', '-')}.json"


def _known(entry: Entry, folder: Path) -> Row:
    """What was found of a network before, or is found now and kept."""
    path = _path(entry, folder)
    if path.exists():
        kept = json.loads(path.read_text("utf-8"))
        return Row(**{**kept, "cams": [tuple(each) for each in kept["cams"]], "limits": tuple(kept["limits"])})
    row = _examine_or_say_why(entry)
    gc.collect()  # runtimes refer to themselves, and a network's weights would pile up
    path.write_text(json.dumps(asdict(row)), "utf-8")
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", help="parts of names; all networks, into docs/reference/networks.md, by default"
    )
    parser.add_argument("--kept", type=Path, help="a folder of rows, so that a run can be resumed")
    parser.add_argument("--no-new", action="store_true", help="of the rows in that folder alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [entry for entry in entries() if not options.names or any(name in entry.name for name in options.names)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.kept or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        missing = [entry for entry in chosen if options.no_new and not _path(entry, folder).exists()]
        chosen = [entry for entry in chosen if entry not in missing]
        rows = {entry: _known(entry, folder) for entry in tqdm(chosen, unit="network")}
    table: list[str] = []
    for library in dict.fromkeys(entry.library for entry in chosen):
        of_it = [row for entry, row in rows.items() if entry.library == library]
        right = sum(not row.errors for row in of_it)
        table += [f"\n## {library}: {right} of {len(of_it)}\n", HEADER, *map(line, of_it)]
    if missing:
        table.append(f"\n## Not measured yet: {len(missing)}\n\n" + ", ".join(f"`{entry.name}`" for entry in missing))
    if options.names:
        sys.stdout.write("\n".join(table) + "\n")
        return
    page = PREAMBLE.format(torch=torch.__version__)
    (Path(__file__).parents[1] / "docs" / "reference" / "networks.md").write_text(
        page + "\n".join(table) + "\n", "utf-8"
    )


HEADER = """\
| network | input | layers | gradients by | several classes | gates | Grad-CAM differs from captum's by \
| OpenVINO differs by | verdict |
|---|---|---|---|---|---|---|---|---|"""

PREAMBLE = """\
# Networks that Pellucid can explain

Made by `python -m tests.survey` (torch {torch}): every cell is measured, with random seeded weights, ten classes and
three images of noise. A verdict of ✓ means:

- The network compiles, and the graph's logits are those of the plain network.
- Every gate's weight is the factor that multiplied the channels when the plain network ran.
- Grad-CAM at the default layer and at an earlier one equals captum's `LayerGradCam`. Equal means within 1e-5 of the
  largest value, with the graph under torch in float64. For networks of more than 150 million parameters it means
  within 1e-3, in float32.
- OpenVINO in float32, with one image and with three, computes the logits within 1e-3 of the largest, and a Grad-CAM
  at the default layer whose cosine with captum's is 0.999 or more. A cosine is used because a ReLU whose input lies
  within rounding of zero passes the gradient or not. That changes a few numbers of the gradient by much, and the map
  by little.
- *as torch*: OpenVINO differs by more than that, but torch with the same graph in float32 also differs (by at least a
  tenth as much). With random weights these networks amplify rounding errors.

The columns:

- *gradients by*: the runtime that can compute all gradients of the graph, OpenVINO or only torch, or none.
- *several classes*: the gradients of several classes come from one pass of one image. Otherwise the image is
  repeated.
- *gates* counts channel-attention gates by type, without gates of positions such as CBAM's second gate. *(+n)*: n
  more products in the network scale each channel by a number that is not the output of a sigmoid or softmax (global
  response normalisation). They are not offered as gates.
- *Grad-CAM*: the layers, and the largest difference relative to the map's largest value. *closed form*: global
  average pooling and one linear layer follow the default layer, so its gradient needs no backward pass. *\\**: the
  layer is an operation without a module of its own that captum could hook; captum was given the traced network.
- *OpenVINO*: the largest difference of its logits, and of its Grad-CAM at the default layer, relative to the largest
  value.
"""

if __name__ == "__main__":
    main()
