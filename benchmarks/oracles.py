"""Other libraries' maps by our methods' names: what ours are compared with, in tests and in docs/reference/methods.md.

Each is a function of a network, the name of a module whose output is the layer (or None for the pixels), one
picture ``[1, 3, H, W]`` and a class, and returns the raw map ``[h, w]``. Where an implementation is known to be wrong,
or another method under the same name, it is not here: torch-cam's Grad-CAM++ (its alpha has no effect),
pytorch-grad-cam's Ablation-CAM where a layer has negative values (it
hides channels by -1e7), its Score-CAM (its masks are enlarged with corners aligned).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import pytorch_grad_cam as pgc
import torch
from captum.attr import IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchcam.methods import LeGrad, ScoreCAM

from pellucid.explain.evidence import Evidence
from pellucid.explain.methods.sampling import noise_generator
from pellucid.types import Floats

SAMPLES: Final = 8
Oracle = Callable[[nn.Module, str | None, Tensor, int], Floats]


def _of_pytorch_grad_cam(kind: type[Any]) -> Oracle:
    def raw(net: nn.Module, layer: str | None, picture: Tensor, target: int) -> Floats:
        module = net.get_submodule(layer or "")
        with kind(net, [module]) as cam, contextlib.redirect_stderr(io.StringIO()):  # which it draws a bar on
            scores = cam.activations_and_grads(picture.clone().requires_grad_())
            if cam.uses_gradients:
                scores[0, target].backward()
            taken = cam.activations_and_grads
            gradients = taken.gradients[0].numpy() if cam.uses_gradients else None
            targets = [ClassifierOutputTarget(target)]
            heat = cam.get_cam_image(picture, module, targets, taken.activations[0].numpy(), gradients, False)[0]
        # Theirs is divided by the score.
        factor = float(scores[0, target].detach()) if kind is pgc.AblationCAM else 1.0
        return np.asarray(heat * factor, np.float32)

    return raw


def _captums_grad_cam(net: nn.Module, layer: str | None, picture: Tensor, target: int) -> Floats:
    return _array(LayerGradCam(net, net.get_submodule(layer or "")).attribute(picture, target=target)[0, 0])


def _captums_integrated_gradients(net: nn.Module, layer: str | None, picture: Tensor, target: int) -> Floats:
    return _array(IntegratedGradients(net).attribute(picture, target=target, n_steps=SAMPLES)[0].sum(0))


def _captums_smoothgrad(net: nn.Module, layer: str | None, picture: Tensor, target: int) -> Floats:
    spread = 0.15 * float(picture.max() - picture.min())
    tunnel = NoiseTunnel(Saliency(net))
    with patch.object(torch, "normal", _our_noise):
        mean = tunnel.attribute(picture, nt_samples=SAMPLES, stdevs=spread, target=target, abs=False)
    return _array(mean[0].abs().sum(0))


def _our_noise(mean: float, spreads: Tensor) -> Tensor:
    """torch.normal by the noise of our SmoothGrad."""
    return mean + spreads * torch.from_numpy(noise_generator().standard_normal(spreads.shape, np.float32))


def _torchcams_score_cam(net: nn.Module, layer: str | None, picture: Tensor, target: int) -> Floats:
    with ScoreCAM(net, layer, input_shape=tuple(picture.shape[1:])) as cam, torch.no_grad():
        net(picture)
        (heat,) = cam(target, normalized=False)
    return _array(heat[0])


def _torchcams_legrad(net: nn.Module, layer: str | None, picture: Tensor, target: int) -> Floats:
    """All blocks of torchvision's VisionTransformer."""
    blocks: Any = net.get_submodule("encoder.layers")
    with LeGrad(net, [*blocks]) as cam:
        net(picture)
        (heat,) = cam(target, normalized=False)
    return _array(heat[0])


def _array(values: Tensor) -> Floats:
    return values.detach().numpy()


# method -> whose -> the map; those of the pixels are compared there and, with the head as the network, at layers.
ORACLES: Final[dict[str, dict[str, Oracle]]] = {
    "grad-cam": {"captum": _captums_grad_cam, "pytorch-grad-cam": _of_pytorch_grad_cam(pgc.GradCAM)},
    "hirescam": {"pytorch-grad-cam": _of_pytorch_grad_cam(pgc.HiResCAM)},
    "grad-cam-plus-plus": {"pytorch-grad-cam": _of_pytorch_grad_cam(pgc.GradCAMPlusPlus)},
    "xgrad-cam": {"pytorch-grad-cam": _of_pytorch_grad_cam(pgc.XGradCAM)},
    "layercam": {"pytorch-grad-cam": _of_pytorch_grad_cam(pgc.LayerCAM)},
    "elementwise": {"pytorch-grad-cam": _of_pytorch_grad_cam(pgc.GradCAMElementWise)},
    "eigen-cam": {"pytorch-grad-cam": _of_pytorch_grad_cam(pgc.EigenCAM)},
    "eigen-grad-cam": {"pytorch-grad-cam": _of_pytorch_grad_cam(pgc.EigenGradCAM)},
    "attention-rollout": {},  # no library of these has it: tests/explain/test_oracles.py computes it step by step
    "legrad": {"torch-cam": _torchcams_legrad},
    "ablation-cam": {"pytorch-grad-cam": _of_pytorch_grad_cam(pgc.AblationCAM)},
    "score-cam": {"torch-cam": _torchcams_score_cam},
    "score-cam-at-layer": {"torch-cam": _torchcams_score_cam},
    "recipro-cam": {},  # openvino-xai's answers are recorded: tests/explain/record_openvino_xai.py
    "vit-recipro-cam": {},
    "smoothgrad": {"captum": _captums_smoothgrad},
    "integrated-gradients": {"captum": _captums_integrated_gradients},
}
# An eigenvector has no sign of its own; theirs is as it comes, and torch-cam cuts off what is negative.
SIGNLESS: Final = ("eigen-cam", "eigen-grad-cam")
CUT_AT_ZERO: Final = ("score-cam", "score-cam-at-layer")


# pytorch-grad-cam adds 1e-6 to a quotient of squared gradients in Grad-CAM++, which are smaller, and 1e-7 elsewhere.
ENLARGED: Final = 1e7


class Enlarged(nn.Module):
    """A network, called ``net``, with its logits enlarged: what others add to quotients has no weight then."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """The logits ``[B, classes]``."""
        logits: Tensor = ENLARGED * self.net(x)
        return logits


def enlarged(evidence: Evidence) -> Evidence:
    """Evidence of the enlarged network."""
    return Evidence(evidence.activation, ENLARGED * evidence.gradient)


def difference(method: str, ours: Floats, theirs: Floats) -> float:
    """The largest difference between two maps as a share of the largest value of theirs."""
    if method in CUT_AT_ZERO:
        ours = np.maximum(ours, 0)
    signs = (1, -1) if method in SIGNLESS else (1,)
    return float(min(np.abs(ours - sign * theirs).max() for sign in signs) / np.abs(theirs).max())
