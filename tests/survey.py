"""Which networks the service can explain: each one traced, cut and compared with the plain network and with captum.

``python -m tests.survey`` writes docs/networks.md. Weights are random and seeded: the maths must hold for any.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import LayerGradCam
from service.engine.choose import create
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from pellucid.compiler.graph import TracedNetwork, UntraceableError
from pellucid.explain.methods.gradient import grad_cam
from pellucid.network.spec import LayerSpec, ModelSpec, PreprocessSpec
from pellucid.types import Batch, Plan
from tests.explain.cuts import evidence_at
from tests.surveyed import Entry, entries

# Of a map's, a gate's or the logits' largest value.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
ENGINE_TOLERANCE = 1e-2  # of a batch of float32: gradients jump where an activation lies within rounding of a kink
BATCHES = (1, 3)
LARGE = 150_000_000  # parameters; a larger network is examined in float32


@dataclass
class Row:
    """What was measured of one network. ``errors`` holds what differs or fails, by what was compared."""

    name: str
    size: int
    equal: bool = False  # the logits are those of the plain network
    layers: int = 0
    gates: Counter[str] = field(default_factory=Counter)
    gates_wrong: int = 0
    ungated: int = 0
    cams: list[tuple[str, str, float]] = field(default_factory=list)
    closed_form: bool = False
    engine: float = math.nan  # how far the engine's logits and map are from the plain network's
    errors: dict[str, str] = field(default_factory=dict)


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
    """Trace one network and compare all that the service makes of it."""
    row = Row(entry.name, entry.size)
    net = random_network(entry.make, entry.size)
    pixels = _noise(2, entry.size).to(next(net.parameters()))
    tolerance = TOLERANCE[pixels.dtype]
    factors = _Factors()
    with torch.no_grad(), factors:
        expected = net(pixels)
    try:
        traced = TracedNetwork(net, (entry.size, entry.size))
    except UntraceableError as error:
        row.errors["traces"] = str(error)
        return row
    spec = traced.spec
    if not spec.default_layer:
        row.errors["traces"] = spec.default_layer_reason
    with torch.no_grad():
        logits, *gates = traced.trunk([traced.logits, *(gate.weights for gate in traced.gates)])(pixels)
    wrong = _difference(logits, expected)
    row.equal = wrong <= tolerance
    if not row.equal:
        row.errors["logits"] = f"the logits differ by {wrong:.0e}"
    row.layers = len(spec.layers)
    row.gates = Counter(gate.type for gate in spec.gates)
    row.gates_wrong = sum(not factors.take(value, tolerance) for value in gates)
    row.ungated = len(factors.found)
    if row.gates_wrong:
        row.errors["gates"] = f"{row.gates_wrong} gates are not what multiplied the channels"
    if spec.default_layer:
        row.closed_form = traced.has_linear_head(spec.default_layer)
        for layer in dict.fromkeys((spec.default_layer, spec.feature_layers[1])):
            oracle, wrong = _compare_cam(net, traced, spec.by_name[layer], pixels, expected)
            row.cams.append((layer, oracle, wrong))
            if not wrong <= tolerance:
                row.errors["Grad-CAM"] = f"Grad-CAM at {layer} differs from captum's by {wrong:.0e} of its maximum"
    row.engine = _compare_engine(net, traced, entry.size)
    if not row.engine <= ENGINE_TOLERANCE:
        row.errors["engine"] = f"the engine's answers differ by {row.engine:.0e}"
    return row


def _noise(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value expected; nan where there is nothing but zeros."""
    return float((found - expected).abs().max() / expected.abs().max())


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


# -- Grad-CAM: captum on the plain network


def _compare_cam(
    net: nn.Module, traced: TracedNetwork, layer: LayerSpec, pixels: Tensor, logits: Tensor
) -> tuple[str, float]:
    """What was compared with, and by how much ours differs from it, relative to the largest value of its map."""
    targets = logits.argmax(1, keepdim=True).tolist()
    ours = [torch.from_numpy(grad_cam(each)[0]) for each in evidence_at(traced, layer.name, pixels, targets)]
    against, theirs = oracle(net, traced, layer, pixels, targets)
    return against, max(_difference(one, other) for one, other in zip(ours, theirs, strict=True))


def oracle(
    net: nn.Module, traced: TracedNetwork, layer: LayerSpec, pixels: Tensor, targets: list[list[int]]
) -> tuple[str, list[Tensor]]:
    """What captum was given, and its map ``[h, w]`` of each image for the one class in its ``targets``."""
    probe = nn.Identity()
    if layer.name in dict(net.named_modules()):
        with _probed(net, layer, probe):
            return "captum", _captum(net, probe, pixels, targets)
    # An operation without a module: captum can hook none, so it is given the network as it was cut.
    cut = traced.cut(layer.name)
    return "captum on the cut", _captum(_Halves(traced.trunk(cut.inputs), probe, cut.head), probe, pixels, targets)


def _captum(net: nn.Module, layer: nn.Module, pixels: Tensor, targets: list[list[int]]) -> list[Tensor]:
    maps: Tensor = LayerGradCam(net, layer).attribute(pixels.clone().requires_grad_(), target=[k for (k,) in targets])
    return [*maps.detach()[:, 0]]


class _probed:
    """While it lasts, ``probe`` sees what the module ``layer`` returns at its first run, as a map ``[B, C, h, w]``.

    What follows gets a copy: an in-place operation would change what captum recorded.
    """

    def __init__(self, net: nn.Module, layer: LayerSpec, probe: nn.Module) -> None:
        self._probe, self._shape = probe, layer.shape
        self._ran = False
        self._handles = (
            net.register_forward_pre_hook(self._begin),
            net.get_submodule(layer.name).register_forward_hook(self._see),
        )

    def _begin(self, *_: Any) -> None:
        self._ran = False

    def _see(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        if self._ran:
            return None
        self._ran = True
        channels, height, width = self._shape
        if output.ndim == 3:  # tokens, class token and registers first
            extra = output.shape[1] - height * width
            grid = output[:, extra:].reshape(-1, height, width, channels).permute(0, 3, 1, 2)
            seen = self._probe(grid.clone()).permute(0, 2, 3, 1).reshape(output.shape[0], -1, channels)
            return torch.cat((output[:, :extra], seen), 1)
        if output.shape[1:] == (height, width, channels) != (channels, height, width):
            return self._probe(output.permute(0, 3, 1, 2).clone()).permute(0, 2, 3, 1).clone()  # type: ignore[no-any-return]
        return self._probe(output.clone()).clone()  # type: ignore[no-any-return]

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


class _Halves(nn.Module):
    def __init__(self, trunk: nn.Module, probe: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.probe, self.head = trunk, probe, head

    def forward(self, pixels: Tensor) -> Tensor:
        first, *others = self.trunk(pixels)
        logits: Tensor = self.head(self.probe(first).clone(), *others)
        return logits


# -- the engine that serves by default on a CPU


def _compare_engine(net: nn.Module, traced: TracedNetwork, size: int) -> float:
    """By how much the logits and the default map of OpenVINO, alone and in a batch, differ from the plain network's and
    captum's, relative to their largest value. Leaves the network in float32.
    """
    layer = traced.spec.default_layer or None
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), size, size, 3), np.uint8)
    images = (images * np.linspace(0.5, 1, len(images))[:, None, None, None]).astype(np.uint8)  # no two alike
    pixels = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    pixels = pixels.to(next(net.parameters()))
    with torch.no_grad():
        expected = net(pixels)
    targets = expected.argmax(1, keepdim=True).tolist()
    maps = oracle(net, traced, traced.spec.by_name[layer], pixels, targets)[1] if layer else []
    labels = tuple(str(index) for index in range(expected.shape[1]))
    spec = ModelSpec(
        "surveyed", "", labels, PreprocessSpec((size, size), size, "bilinear", (0.5,) * 3, (0.25,) * 3), ""
    )
    engine = create(net.float(), spec, engine="openvino", device="cpu", precision="fp32", threads=1, cache=None)
    wrong = []
    for count in BATCHES:
        plans = tuple(Plan(top_k=len(labels), layer=layer, targets=(target,)) for (target,) in targets[:count])
        for i, outcome in enumerate(engine.run(Batch(images[:count], plans))):
            logits = torch.tensor([each.logit for each in sorted(outcome.predictions, key=lambda each: each.index)])
            wrong.append(_difference(logits, expected[i]))
            wrong += [_difference(torch.from_numpy(found.heat), maps[i]) for found in outcome.explanations]
    return max(wrong, key=lambda each: math.inf if math.isnan(each) else each)


# -- the table


def line(row: Row) -> str:
    """One row of the table in Markdown."""
    gates = ", ".join(f"{count} {kind}" for kind, count in row.gates.items()) or "none"
    cams = "; ".join(f"`{layer}` {wrong:.0e}{'' if oracle == 'captum' else '*'}" for layer, oracle, wrong in row.cams)
    cells = (
        f"`{row.name}`",
        str(row.size),
        str(row.layers),
        f"{gates}{f' (+{row.ungated})' if row.ungated else ''}",
        "yes" if row.equal else "no",
        f"{cams}{' (closed form)' if row.closed_form else ''}" or "none",
        f"{row.engine:.0e}",
        "; ".join(row.errors.values()).replace("|", "/").replace("\n", " ") or "✓",
    )
    return f"| {' | '.join(cells)} |"


def _examine_or_say_why(entry: Entry) -> Row:
    try:
        return examine(entry)
    except Exception as error:  # a table of what works must survive what doesn't
        return Row(entry.name, entry.size, errors={"runs": f"{type(error).__name__}: {str(error)[:200]}"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; all networks, into docs/networks.md, by default")
    names = parser.parse_args().names
    chosen = [entry for entry in entries() if not names or any(name in entry.name for name in names)]
    started = time.perf_counter()
    rows = {entry: _examine_or_say_why(entry) for entry in tqdm(chosen, unit="network")}
    table: list[str] = []
    for library in dict.fromkeys(entry.library for entry in chosen):
        of_it = [row for entry, row in rows.items() if entry.library == library]
        right = sum(not row.errors for row in of_it)
        table += [f"\n## {library}: {right} of {len(of_it)}\n", HEADER, *map(line, of_it)]
    if names:
        sys.stdout.write("\n".join(table) + "\n")
        return
    minutes = (time.perf_counter() - started) / 60
    page = PREAMBLE.format(torch=torch.__version__, minutes=round(minutes))
    (Path(__file__).parents[1] / "docs" / "networks.md").write_text(page + "\n".join(table) + "\n", "utf-8")


HEADER = """\
| network | input | layers | gates | logits equal | Grad-CAM differs from captum's by | OpenVINO differs by | verdict |
|---|---|---|---|---|---|---|---|"""

PREAMBLE = """\
# Networks that the service can explain

Made by `python -m tests.survey` (torch {torch}, {minutes} minutes): every cell is measured, with random seeded weights,
ten classes and two images of noise. A verdict of ✓ means: the network is traced; its logits are those of the plain
network; every gate read out is the factor that multiplied the channels when the plain network ran; Grad-CAM at the
default layer and at an earlier one equals captum's `LayerGradCam`; OpenVINO, which serves on a CPU by default, answers
one image and a batch of three within 1e-2, in float32. Equal means to 1e-6 of the largest value, in float64; for
networks of more than 150 million parameters to 1e-3, in float32.

- *gates* counts channel-attention gates by type. *(+n)*: n more products in the network scale each channel by a number
  of its own without a sigmoid or softmax that made it (global response normalisation); they are not offered as gates.
- *Grad-CAM*: the layers, and the largest difference relative to the map's largest value. *closed form*: global average
  pooling and one linear layer follow the default layer, so its gradient needs no backward pass. *\\**: the layer is an
  operation without a module of its own that captum could hook; captum was given the network as it is cut there.
- *OpenVINO*: the largest difference of its logits and of its Grad-CAM at the default layer from those of the plain
  network and captum's, relative to the largest value.
"""

if __name__ == "__main__":
    main()
