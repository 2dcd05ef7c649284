"""What bfloat16 does to explanations: maps and channel weights beside those in float64, into docs/numerics.md.

``python -m benchmarks.precision [PICTURES]`` (``make precision PICTURES=folder``): the shipped photographs, and up to
``--most`` of a folder's or a tar's. It needs a processor with bfloat16.
"""

from __future__ import annotations

import argparse
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import machine
from benchmarks.photographs import SAMPLES
from benchmarks.report import fill, machine_line, table
from benchmarks.servers import ROOT
from models import catalog
from pellucid.compiler.compiling import compile_network
from pellucid.decode.image import decode
from pellucid.explain.evidence import Evidence
from pellucid.explain.methods.gradient import channel_weights, grad_cam
from pellucid.network.file import CompiledNetwork, Nodes, Value
from pellucid.network.spec import ModelSpec
from pellucid.ranks import spearman
from pellucid.runtime.base import Runtime
from pellucid.runtime.openvino_runtime import OpenVINORuntime
from pellucid.runtime.torch_runtime import TorchRuntime
from pellucid.types import Floats, InputPixels, Upload

PAGE: Final = ROOT / "docs" / "numerics.md"
LAYERS: Final = ("head", "blocks.9", "blocks.4", "stem")
_PICTURES: Final = (".jpg", ".jpeg", ".png")


def pictures(source: Path | None, most: int, spec: ModelSpec) -> Iterator[InputPixels]:
    """The shipped photographs, and those of ``source``, evenly chosen, as the network takes them."""
    found = [path.read_bytes() for path in sorted(SAMPLES.glob("*.jpg"))]
    if source is not None and source.suffix == ".tar":
        with tarfile.open(source) as archive:
            members = [each for each in archive.getmembers() if each.name.lower().endswith(_PICTURES)]
            chosen = members[:: max(1, len(members) // most)][:most]
            found += [file.read() for each in chosen if (file := archive.extractfile(each)) is not None]
    elif source is not None:
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in _PICTURES)
        found += [path.read_bytes() for path in paths[:: max(1, len(paths) // most)][:most]]
    for data in found:
        yield decode(Upload(data), spec.preprocess, 10**8).pixels


class Seen:
    """What one runtime makes of a picture: maps and channel weights at the layers, the effects of the gates."""

    def __init__(
        self, network: CompiledNetwork, runtime: Runtime, pixels: InputPixels, target: int | None = None
    ) -> None:
        manifest = network.manifest
        values = {layer: manifest.values[layer] for layer in LAYERS}
        asked: list[Value | Nodes] = [*values.values(), *manifest.gate_values.values()]
        nodes = [manifest.logits, *(node for each in asked for node in (each.node, each.gradient) if node)]
        row = np.zeros((1, len(manifest.model.labels)), np.float32)
        if target is not None:
            row[0, target] = 1
        found, _ = runtime.run(pixels[None], row, nodes, "whole")
        self.top = int(found[manifest.logits].argmax())
        self.weights, self.maps = {}, {}
        for layer, value in values.items():
            evidence = Evidence(found[value.node][0], found[value.gradient or ""])
            self.weights[layer] = channel_weights(evidence)[0]
            self.maps[layer] = grad_cam(evidence)[0]
        self.effects = {
            gate: (found[value.node] * found[value.gradient or ""]).ravel()
            for gate, value in manifest.gate_values.items()
        }


def cosine(one: Floats, other: Floats) -> float:
    """Of what speaks for the class in two maps; 1 where nothing does in either."""
    first, second = np.maximum(one, 0).ravel().astype(float), np.maximum(other, 0).ravel().astype(float)
    norm = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / norm) if norm else float(first.any() == second.any())


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--most", type=int, default=200)
    given = parser.parse_args()
    net, spec = catalog.load("lite0")
    single, double = compile_network(net, spec, None), compile_network(net.double(), spec, None)
    exact = TorchRuntime(double, torch.device("cpu"), threads=2)
    runtimes = {
        "fp32": OpenVINORuntime(single, bf16=False, threads=2),
        "bf16": OpenVINORuntime(single, bf16=True, threads=2),
    }
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    effects: dict[str, list[float]] = {}
    same = dict.fromkeys(runtimes, 0)
    shown = list(pictures(given.pictures, given.most, spec))
    for pixels in tqdm(shown):
        expected = Seen(double, exact, pixels)
        for name, runtime in runtimes.items():
            seen = Seen(single, runtime, pixels, expected.top)
            same[name] += seen.top == expected.top
            for layer in LAYERS:
                ranks = spearman(seen.weights[layer], expected.weights[layer]) or 0.0
                found.setdefault((layer, name), []).append((cosine(seen.maps[layer], expected.maps[layer]), ranks))
            effects.setdefault(name, []).extend(
                spearman(values, expected.effects[gate]) or 0.0 for gate, values in seen.effects.items()
            )
    rows = []
    for (layer, name), values in found.items():
        maps, ranks_of = zip(*values, strict=True)
        rows.append((f"`{layer}`", name, *_told(maps), *_told(ranks_of)))
    for name, values_of in effects.items():
        rows.append(("gates' effects", name, "", "", *_told(values_of)))
    header = ("layer", "precision", "maps, median cosine", "tenth", "channels, median rank correlation", "tenth")
    tops = ", ".join(f"{name} {count}" for name, count in same.items())
    content = (
        f"{table(header, rows)}\n\n{len(shown)} photographs: Grad-CAM and channel weights of the top class beside "
        f"those in float64. A tenth of the photographs lie below *tenth*. The top class is float64's in {tops}. "
        f"{machine_line(machine.describe())}"
    )
    PAGE.write_text(fill(PAGE.read_text("utf-8"), "precision", content, "make precision"), "utf-8")


def _told(values: tuple[float, ...] | list[float]) -> tuple[str, str]:
    return f"{np.median(values):.4f}", f"{np.quantile(values, 0.1):.3f}"


if __name__ == "__main__":
    main()
