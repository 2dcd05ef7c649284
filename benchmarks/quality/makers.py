"""Who makes maps: our methods by layer, and the same of other libraries, used as their documentation says."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import captum.attr as captum
import numpy as np
import pytorch_grad_cam as pgc
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from benchmarks.quality.scenes import Scene
from pellucid.engine import Engine
from pellucid.explain.methods import offered
from pellucid.network.spec import PIXELS, SOFTMAX, ModelSpec
from pellucid.types import Batch, Floats, MapSpec, MethodSpec, Plan

OURS: Final = "Pellucid"
PGC: Final = "pytorch-grad-cam"
CAPTUM: Final = "captum"
SAMPLES: Final = Plan().samples


@dataclass(frozen=True)
class Maker:
    """One method of one library at one layer: ``make`` returns a scene's map ``[h, w]``.

    ``passes``: about how many passes of the whole network that takes.
    """

    by: str
    method: str
    layer: str
    passes: int
    make: Callable[[Scene], Floats]


def ours(engine: Engine, layers: Sequence[str]) -> list[Maker]:
    """Every method at every one of these layers, and at the pixels where it is offered there."""
    found = []
    for method in offered(engine.network, SOFTMAX):
        name = method.name
        places = [*([PIXELS] if method.at_pixels else []), *(layers if method.at_layers else [])]
        for layer in places:
            channels, *grid = engine.network.by_name[layer].shape if layer != PIXELS else (3, 1, 1)
            copies = math.prod(grid) if method.needs == "position forwards" else channels
            closed = layer == engine.network.default_layer and engine.lane(_plan(0, "grad-cam", layer)) == ""
            found.append(Maker(OURS, name, layer, _passes(method, copies, closed), _own(engine, name, layer)))
    return found


def _plan(target: int, method: str, layer: str) -> Plan:
    return Plan(targets=(target,), heat_maps=(MapSpec(method, (layer,)),))


def _own(engine: Engine, method: str, layer: str) -> Callable[[Scene], Floats]:
    def make(scene: Scene) -> Floats:
        (outcome,) = engine.run(Batch(scene.pixels[None], (_plan(scene.target, method, layer),)))
        return outcome.explanations[0].heat

    return make


def _passes(spec: MethodSpec, copies: int, closed: bool) -> int:
    if spec.needs == "network forwards":
        return copies
    if closed or spec.needs in ("activation", "gradient"):
        return 3  # a backward pass is about two forward ones
    return copies if "forwards" in spec.needs else 3 * SAMPLES


_PGC: Final[dict[str, tuple[type[Any], bool]]] = {  # and whether it runs the network for each channel
    "grad-cam": (pgc.GradCAM, False),
    "hirescam": (pgc.HiResCAM, False),
    "grad-cam-plus-plus": (pgc.GradCAMPlusPlus, False),
    "xgrad-cam": (pgc.XGradCAM, False),
    "layercam": (pgc.LayerCAM, False),
    "elementwise": (pgc.GradCAMElementWise, False),
    "eigen-cam": (pgc.EigenCAM, False),
    "eigen-grad-cam": (pgc.EigenGradCAM, False),
    "ablation-cam": (pgc.AblationCAM, True),
    "score-cam": (pgc.ScoreCAM, True),
}


class Libraries:
    """pytorch-grad-cam and captum on a copy of the network, which their hooks stay on; fp32 under torch.

    Predictions and maps of a scene's class, one picture at a time, as many threads as the engine has.
    """

    def __init__(self, net: nn.Module, spec: ModelSpec, threads: int) -> None:
        self._net = copy.deepcopy(net).eval().requires_grad_(False)
        self._mean, self._std = (
            torch.tensor(values)[:, None, None] for values in (spec.preprocess.mean, spec.preprocess.std)
        )
        self._threads = threads

    def predict(self, scene: Scene) -> Floats:
        """The plain network's logits: what their costs are divided by."""
        with torch.inference_mode():
            logits: Floats = self._net(self._picture(scene))[0].numpy()
        return logits

    def makers(self, layers: Sequence[str], channels: dict[str, int], most_passes: int) -> list[Maker]:
        """At the layers that are modules; those that run the network for each channel where these are few enough."""
        found = []
        for layer in layers:
            for method, (kind, by_channel) in _PGC.items():
                passes = channels[layer] if by_channel else 3
                if passes <= most_passes:
                    found.append(Maker(PGC, method, layer, passes, self._pgc(kind, layer)))
            found.append(Maker(CAPTUM, "grad-cam", layer, 3, self._captums_grad_cam(layer)))
        found.append(Maker(CAPTUM, "smoothgrad", PIXELS, 3 * SAMPLES, self._captums_smoothgrad))
        found.append(Maker(CAPTUM, "integrated-gradients", PIXELS, 3 * SAMPLES, self._captums_integrated_gradients))
        return found

    def _picture(self, scene: Scene) -> Tensor:
        torch.set_num_threads(self._threads)
        pixels = torch.from_numpy(scene.pixels).permute(2, 0, 1) / 255
        return ((pixels - self._mean) / self._std)[None].contiguous()

    def _pgc(self, kind: type[Any], layer: str) -> Callable[[Scene], Floats]:
        def make(scene: Scene) -> Floats:
            module = self._net.get_submodule(layer).requires_grad_(True)  # its backward pass goes no deeper
            try:
                # Ablation-CAM and Score-CAM draw a progress bar.
                with contextlib.redirect_stderr(io.StringIO()), kind(self._net, [module]) as cam:
                    mask = cam(self._picture(scene), [ClassifierOutputTarget(scene.target)])[0]
            finally:
                module.requires_grad_(False)
                self._net.zero_grad(set_to_none=True)
            return np.asarray(mask, np.float32)

        return make

    def _captums_grad_cam(self, layer: str) -> Callable[[Scene], Floats]:
        oracle = captum.LayerGradCam(self._net, self._net.get_submodule(layer))
        return lambda scene: _array(oracle.attribute(self._picture(scene), target=scene.target)[0, 0])

    def _captums_smoothgrad(self, scene: Scene) -> Floats:
        picture = self._picture(scene)
        spread = 0.15 * float(picture.max() - picture.min())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            mean = captum.NoiseTunnel(captum.Saliency(self._net)).attribute(
                picture, nt_samples=SAMPLES, nt_samples_batch_size=8, stdevs=spread, target=scene.target, abs=False
            )
        return _array(mean[0].abs().sum(0))

    def _captums_integrated_gradients(self, scene: Scene) -> Floats:
        found = captum.IntegratedGradients(self._net).attribute(
            self._picture(scene), target=scene.target, n_steps=SAMPLES, internal_batch_size=8
        )
        return _array(found[0].sum(0))


def _array(values: Tensor) -> Floats:
    return values.detach().numpy().astype(np.float32)
