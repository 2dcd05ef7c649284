"""Every method by name, and what a plan's methods ask of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from pellucid.explain.evidence import Evidence
from pellucid.explain.methods import forwards, gradient, sampling
from pellucid.explain.methods.probe import Probe
from pellucid.network.spec import PIXELS
from pellucid.types import MethodSpec, Plan


@dataclass(frozen=True)
class Method:
    """A method that takes Evidence: it needs no more than one gradient."""

    spec: MethodSpec
    heat: Callable[[Evidence], Tensor]


@dataclass(frozen=True)
class ProbingMethod:
    """A method that takes a Probe: it runs the head again and again."""

    spec: MethodSpec
    heat: Callable[[Probe], Tensor]


_METHODS: tuple[Method | ProbingMethod, ...] = (
    Method(
        MethodSpec(
            "grad-cam",
            "Grad-CAM",
            "gradient",
            "channels weighted by the mean of their gradient over positions",
            "Selvaraju et al. 2017, arXiv 1610.02391",
        ),
        gradient.grad_cam,
    ),
    Method(
        MethodSpec(
            "hirescam",
            "HiResCAM",
            "gradient",
            "gradient times activation, position by position, summed over channels",
            "Draelos and Carin 2020, arXiv 2011.08891",
        ),
        gradient.hirescam,
    ),
    Method(
        MethodSpec(
            "grad-cam-plus-plus",
            "Grad-CAM++",
            "gradient",
            "channels weighted by their positive gradients, positions that stand alone weighing more",
            "Chattopadhay et al. 2018, arXiv 1710.11063",
        ),
        gradient.grad_cam_plus_plus,
    ),
    Method(
        MethodSpec(
            "xgrad-cam",
            "XGrad-CAM",
            "gradient",
            "channels weighted by the mean of their gradient, positions counting by their activation",
            "Fu et al. 2020, arXiv 2008.02312",
        ),
        gradient.xgrad_cam,
    ),
    Method(
        MethodSpec(
            "layercam",
            "LayerCAM",
            "gradient",
            "positive gradient times activation, position by position, summed over channels",
            "Jiang et al. 2021, IEEE TIP 30",
            signed=False,
        ),
        gradient.layercam,
    ),
    Method(
        MethodSpec(
            "elementwise",
            "Element-wise Grad-CAM",
            "gradient",
            "what is positive of gradient times activation, summed over channels",
            "Gildenblat, pytorch-grad-cam (no paper)",
            signed=False,
        ),
        gradient.elementwise,
    ),
    Method(
        MethodSpec(
            "eigen-cam",
            "Eigen-CAM",
            "activation",
            "the activation on its first principal component: the same for every class",
            "Muhammad and Yeasin 2020, arXiv 2008.00299",
            of_class=False,
        ),
        gradient.eigen_cam,
    ),
    Method(
        MethodSpec(
            "eigen-grad-cam",
            "EigenGrad-CAM",
            "gradient",
            "gradient times activation on its first principal component",
            "Gildenblat, pytorch-grad-cam (no paper)",
        ),
        gradient.eigen_grad_cam,
    ),
    ProbingMethod(
        MethodSpec(
            "ablation-cam",
            "Ablation-CAM",
            "forwards",
            "channels weighted by what the logit loses without them",
            "Desai and Ramaswamy 2020, WACV",
        ),
        forwards.ablation_cam,
    ),
    ProbingMethod(
        MethodSpec(
            "score-cam-at-layer",
            "Score-CAM at the layer",
            "forwards",
            "channels weighted by the softmax of the logits that the activation gives where they mask it",
            "after Wang et al. 2020, arXiv 1910.01279, which masks the picture",
            signed=False,
        ),
        forwards.score_cam_at_layer,
    ),
    ProbingMethod(
        MethodSpec(
            "score-cam",
            "Score-CAM",
            "network forwards",
            "channels weighted by the softmax of the logits that the picture gives where they mask it",
            "Wang et al. 2020, arXiv 1910.01279",
            signed=False,
        ),
        forwards.score_cam,
    ),
    ProbingMethod(
        MethodSpec(
            "smoothgrad",
            "SmoothGrad",
            "gradients",
            "the size of the mean gradient of noisy copies: how strongly the logit reacts, either way",
            "Smilkov et al. 2017, arXiv 1706.03825",
            at_pixels=True,
            signed=False,
        ),
        sampling.smoothgrad,
    ),
    ProbingMethod(
        MethodSpec(
            "integrated-gradients",
            "Integrated Gradients",
            "gradients",
            "the gradient's mean on the way from nothing (the mean colour) to the picture, times the picture",
            "Sundararajan et al. 2017, arXiv 1703.01365",
            at_pixels=True,
        ),
        sampling.integrated_gradients,
    ),
)

METHODS: Final[dict[str, Method | ProbingMethod]] = {method.spec.name: method for method in _METHODS}


def _places(plan: Plan) -> Iterable[tuple[MethodSpec, str]]:
    return ((METHODS[heat.method].spec, layer) for heat in plan.wanted for layer in heat.layers)


def differentiated(plan: Plan) -> tuple[str, ...]:
    """The layers at which one gradient of each class is needed: for heat maps, or the importance of channels."""
    layers = [layer for spec, layer in _places(plan) if spec.needs == "gradient"]
    if plan.gates and plan.layer is not None and plan.edit is None:
        layers.append(plan.layer)
    return tuple(dict.fromkeys(layers))


def explained(plan: Plan) -> tuple[str, ...]:
    """The layers whose activation is needed; PIXELS among them where the whole network is run again."""
    layers = [*differentiated(plan)]
    if plan.edit is not None and plan.layer is not None:
        layers.append(plan.layer)
    for spec, layer in _places(plan):
        layers += [layer, PIXELS] if spec.needs == "network forwards" else [layer]
    return tuple(dict.fromkeys(layers))


def costly(plan: Plan) -> tuple[tuple[str, str], ...]:
    """(method, layer) of those whose passes others are not to pay for."""
    return tuple(dict.fromkeys((spec.name, layer) for spec, layer in _places(plan) if spec.needs != "gradient"))
