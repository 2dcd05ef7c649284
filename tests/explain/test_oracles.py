"""Maps equal those of captum, pytorch-grad-cam and torch-cam, at the default layer and at earlier layers.

Methods with gradients are compared in float64. There, the different batches and orders of summation move no value
across the kink of a ReLU: a test measures how far all values are from one. Methods with forward passes only are
compared in float32, because scores are continuous.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from pytorch_grad_cam import FinerCAM, GradCAM
from pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from torch import Tensor, nn
from torch.nn import functional
from torchcam import methods as torchcam

from benchmarks.oracles import ENLARGED, ORACLES, SAMPLES, Enlarged, difference, enlarged
from models import catalog
from pellucid.explain.evidence import Evidence
from pellucid.explain.methods import METHODS, Method, ProbingMethod
from pellucid.explain.methods.fusion import fused
from pellucid.explain.methods.gradient import channel_weights, grad_cam
from pellucid.explain.probe import Probe
from pellucid.explain.scalars import scalars
from pellucid.network.file import CompiledNetwork, load
from pellucid.network.spec import PIXELS, SOFTMAX
from pellucid.render.compose import positive
from pellucid.types import Contrast, Floats, MapSpec, Plan
from tests.explain import record_openvino_xai
from tests.explain.passes import Passes, TorchBehind, evidence, evidence_at, exact, pictures, probe, probe_at, run
from tests.networks import PREPROCESS, SIZE, compiled, images, in_memory, network
from tests.support import compiled as of_catalogue

# Network -> its default layer, a middle layer, and an early layer. No in-place operation follows any of them: it would
# change the values that the oracles' hooks recorded.
LAYERS = {
    "resnet18": ("layer4", "layer3.0", "layer1"),
    "mobilenet_v3_small": ("features", "features.7", "features.2"),
    "efficientnet_b0": ("features", "features.5", "features.2"),
}
# Where gradients jump.
KINKS: dict[type[nn.Module], tuple[float, ...]] = {
    nn.ReLU: (0,),
    nn.ReLU6: (0, 6),
    nn.Hardswish: (-3, 3),
    nn.Hardsigmoid: (-3, 3),
}
CASES = [(name, layer) for name, layers in LAYERS.items() for layer in layers]
TARGETS = [[3], [7, 0]]
OF_EVIDENCE = {name: method for name, method in METHODS.items() if isinstance(method, Method)}
PROBING = {name: method for name, method in METHODS.items() if isinstance(method, ProbingMethod)}


class Behind(nn.Module):
    """The network behind a layer as an nn.Module, which takes the activation in place of the picture."""

    def __init__(self, of_image: Probe) -> None:
        super().__init__()
        self.input, self.of_image = nn.Identity(), of_image

    def forward(self, activation: Tensor) -> Tensor:
        assert isinstance(self.of_image.behind, TorchBehind)
        return self.of_image.behind.run(self.input(activation))


def varied(of_image: Probe) -> Tensor:
    return torch.from_numpy(of_image.varied[None])


def agree(method: str, ours: Floats, net: nn.Module, layer: str | None, picture: Tensor, target: int) -> None:
    for whose, oracle in ORACLES[method].items():
        theirs = oracle(net, layer, picture, target)
        assert np.abs(theirs).max() > 0
        assert difference(method, ours, theirs) < 2e-4, (method, whose)


def distances(module: nn.Module, x: Tensor) -> Tensor:
    """How far each value is from the nearest point at which the module's gradient jumps."""
    if isinstance(module, nn.MaxPool2d):
        windows = functional.unfold(x, module.kernel_size, padding=module.padding, stride=module.stride)
        first, second = windows.reshape(*x.shape[:2], -1, windows.shape[2]).topk(2, dim=2).values.unbind(2)
        apart: Tensor = (first - second)[first > 0]
        return apart  # a window of zeros has the gradient 0 wherever it goes
    return torch.stack([(x - kink).abs() for kink in KINKS[type(module)]])


@pytest.mark.parametrize("name", [*LAYERS, "tiny-relu", "lite0-plain"])
def test_all_values_keep_their_distance_from_kinks(name: str) -> None:
    net, size = (exact(name), SIZE) if name != "lite0-plain" else (lite0()[0], (224, 224))
    found: list[float] = []

    def measure(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found.append(float(distances(module, inputs[0]).min()))

    handles = [
        module.register_forward_pre_hook(measure)
        for module in net.modules()
        if isinstance(module, (*KINKS, nn.MaxPool2d))
    ]
    with torch.no_grad():
        net(images(3 if size == SIZE else 1, size, torch.float64))
    for handle in handles:
        handle.remove()
    assert len(found) >= (0 if name == "efficientnet_b0" else 3)  # it has none
    assert min(found, default=1) > 1e-10  # a thousand times what rounding moves in float64


def test_every_method_has_an_oracle() -> None:
    assert set(ORACLES) == set(METHODS)


@pytest.mark.parametrize("method", OF_EVIDENCE)
@pytest.mark.parametrize(
    ("name", "layer"),
    [*CASES[:3], *CASES[4::3]],  # of the others a middle layer
)
def test_a_map_from_one_gradient_equals_the_oracles(name: str, layer: str, method: str) -> None:
    picture = pictures(1)
    (found,) = evidence(name, layer, picture, [[7, 0]])
    for ours, target in zip(OF_EVIDENCE[method].heat(enlarged(found)), (7, 0), strict=True):
        agree(method, ours, Enlarged(exact(name)), f"net.{layer}", picture, target)


@cache
def lite0() -> tuple[nn.Module, CompiledNetwork]:
    """The trained default network and its compiled form. No gates: they would change what hooks on blocks record."""
    net, _ = catalog.load("lite0-plain")
    network = load(of_catalogue("lite0-plain"))
    doubles = {name: each.astype(np.float64) for name, each in network.weights.items() if each.dtype.kind == "f"}
    return net.double(), replace(network, weights={**network.weights, **doubles})


@pytest.mark.parametrize("layer", ["head", "blocks.4"])
def test_a_map_of_the_default_network_equals_the_oracles(layer: str) -> None:
    net, network = lite0()
    picture = images(1, (224, 224), torch.float64)
    (found,) = evidence_at(network, layer, picture, [[285]])
    # The oracles' decomposition of 1280 channels would take ten seconds.
    for method in [name for name in OF_EVIDENCE if layer != "head" or "eigen" not in name]:
        agree(method, OF_EVIDENCE[method].heat(enlarged(found))[0], Enlarged(net), f"net.{layer}", picture, 285)


@pytest.mark.parametrize(("name", "layer"), [("tiny-relu", "stem"), ("tiny-relu", "head"), ("resnet18", "layer1")])
def test_ablation_equals_the_oracles(name: str, layer: str) -> None:
    ours = PROBING["ablation-cam"].heat(probe(name, layer, dtype=torch.float32))
    for k, target in enumerate((3, 1)):
        agree("ablation-cam", ours[k], network(name), layer, images(1), target)


@pytest.mark.parametrize(("name", "layer"), [("tiny", "stem"), ("tiny", "gate"), ("resnet18", "layer1")])
def test_score_cam_equals_the_oracles(name: str, layer: str) -> None:
    ours = PROBING["score-cam"].heat(probe(name, layer, varied=PIXELS, dtype=torch.float32))
    for k, target in enumerate((3, 1)):
        agree("score-cam", ours[k], network(name), layer, images(1), target)


@pytest.mark.parametrize(("name", "layer"), [("tiny", "stem"), ("tiny", "block"), ("resnet18", "layer2.0")])
def test_score_cam_at_a_layer_equals_the_oracle_on_the_network_behind_it(name: str, layer: str) -> None:
    of_image = probe(name, layer, dtype=torch.float32)
    ours = PROBING["score-cam-at-layer"].heat(of_image)
    for k, target in enumerate((3, 1)):
        agree("score-cam-at-layer", ours[k], Behind(of_image), "input", varied(of_image), target)


@pytest.mark.parametrize("layer", [PIXELS, "layer2"])
def test_integrated_gradients_equal_the_oracles(layer: str) -> None:
    many_gradients_agree("integrated-gradients", "resnet18", layer)


@pytest.mark.parametrize(("name", "layer"), [("tiny", PIXELS), ("tiny", "stem"), ("efficientnet_b0", "features.5")])
def test_smoothgrad_equals_the_oracles(name: str, layer: str) -> None:
    many_gradients_agree("smoothgrad", name, layer)


@pytest.mark.parametrize("case", record_openvino_xai.CASES)
def test_recipro_cams_equal_the_answers_that_openvino_xai_gave(case: str) -> None:
    name, layer, _, _ = record_openvino_xai.CASES[case]
    size = (record_openvino_xai.SIDE,) * 2
    net = in_memory(record_openvino_xai.network(name), replace(PREPROCESS, size=size))
    method, classes = PROBING[case.partition(" ")[0]], range(record_openvino_xai.CLASSES)
    ours = method.heat(probe_at(net, layer, record_openvino_xai.picture(), classes))
    with np.load(record_openvino_xai.ANSWERS) as answers:
        theirs = answers[case] - answers[case].min((1, 2), keepdims=True)  # they are stretched for display
    assert difference(case, ours, theirs) < 1e-4


@cache
def transformer() -> nn.Module:
    """torchvision's vision transformer in float64, small, with seeded weights in all parameters."""
    net: nn.Module = torchvision.models.VisionTransformer(64, 16, 3, 4, 32, 64, num_classes=5)
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5
    return net.double().eval()


@cache
def same_of_timm() -> nn.Module:
    """timm's vision transformer with the same weights. It computes attention by a fused call of torch."""
    sizes: dict[str, Any] = {"img_size": 64, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
    net = timm.create_model("vit_tiny_patch16_224", num_classes=5, **sizes)
    names = {  # torchvision's -> timm's
        **{"class_token": "cls_token", "conv_proj.": "patch_embed.proj.", "encoder.pos_embedding": "pos_embed"},
        **{"encoder.layers.encoder_layer_": "blocks.", "encoder.ln.": "norm.", "heads.head.": "head."},
        **{"ln_1.": "norm1.", "ln_2.": "norm2.", "mlp.0.": "mlp.fc1.", "mlp.3.": "mlp.fc2."},
        **{"self_attention.in_proj_": "attn.qkv.", "self_attention.out_proj.": "attn.proj."},
    }
    state = {}
    for name, value in transformer().state_dict().items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        state[name] = value
    net.load_state_dict(state)
    return net.double().eval()


def attention_maps(method: str, net: nn.Module, picture: Tensor, targets: tuple[int, ...] = (3, 1)) -> list[Floats]:
    (outcome,) = Passes(in_memory(net), picture).run(Plan(targets=targets, heat_maps=(MapSpec(method, (PIXELS,)),)))
    return [explanation.heat for explanation in outcome.explanations]


@pytest.mark.parametrize("make", [transformer, same_of_timm])
def test_legrad_equals_torch_cams(make: Callable[[], nn.Module]) -> None:
    for target, ours in zip((3, 1), attention_maps("legrad", make(), pictures(1)), strict=True):
        theirs = ORACLES["legrad"]["torch-cam"](transformer(), None, pictures(1), target)
        assert difference("legrad", ours, theirs) < 1e-9


@pytest.mark.parametrize("make", [transformer, same_of_timm])
def test_rollout_is_the_product_of_the_matrices_and_the_identity(make: Callable[[], nn.Module]) -> None:
    net = transformer()
    tokens, matrices = [], []
    for block in net.get_submodule("encoder.layers").children():
        block.get_submodule("ln_1").register_forward_hook(lambda _, __, output: tokens.append(output))
    net(pictures(1))
    for block, normed in zip(net.get_submodule("encoder.layers").children(), tokens, strict=True):
        block.get_submodule("ln_1")._forward_hooks.clear()
        attention: Any = block.get_submodule("self_attention")
        matrices.append(attention(normed, normed, normed, average_attn_weights=False)[1][0].mean(0))  # N N
    flow = torch.eye(17, dtype=torch.float64)
    for matrix in matrices:
        mixed = matrix + torch.eye(17, dtype=torch.float64)
        flow = (mixed / mixed.sum(1, keepdim=True)) @ flow
    expected = flow[0, 1:].reshape(4, 4).detach().numpy()  # how much of each patch is in the class token
    for ours in attention_maps("attention-rollout", make(), pictures(1)):
        np.testing.assert_allclose(ours, expected, rtol=1e-9)


@pytest.mark.parametrize(("method", "kind"), [("grad-cam", torchcam.GradCAM), ("layercam", torchcam.LayerCAM)])
def test_a_product_of_layers_is_refine_cam_before_its_last_stretch(method: str, kind: type[Any]) -> None:
    layers, net, picture = ["layer2", "layer3.0", "layer4"], exact("resnet18"), pictures(1)
    maps = [OF_EVIDENCE[method].heat(evidence("resnet18", layer, picture, [[7]])[0]) for layer in layers]
    with torchcam.RefineCAM(net, [*layers], tuple(picture.shape[1:]), base_method=kind) as cam:
        (theirs,) = cam(7, net(picture), normalized=False)
    np.testing.assert_allclose(fused(maps, "product")[0], theirs[0].detach().numpy(), atol=1e-4)


def test_a_contrast_with_grad_cam_is_finer_cam() -> None:
    net, layer, picture = exact("resnet18"), "layer3.0", pictures(1)
    for against in ((2,), (2, 5, 9)):
        plan = Plan(targets=(7,), heat_maps=(MapSpec("grad-cam", (layer,)),), contrast=Contrast(against, 0.6))
        heat = run("resnet18", plan)[0].explanations[0].heat
        with torchcam.FinerCAM(net, layer, base_method=torchcam.GradCAM, gamma=0.6) as cam:
            (theirs,) = cam(7, net(picture), [*against], normalized=False)
        np.testing.assert_allclose(np.maximum(heat, 0), theirs[0].detach().numpy(), atol=1e-6 * np.abs(heat).max())
        if len(against) == 1:  # pytorch-grad-cam weighs several classes by their probabilities
            target = FinerWeightedTarget(7, [*against], 0.6)
            finer = FinerCAM(net, [net.get_submodule(layer)])
            mask = finer(picture, [lambda logits, target=target: ENLARGED * target(logits)])[0]
            np.testing.assert_allclose(positive(heat, *SIZE), mask, atol=1e-4)


def many_gradients_agree(method: str, name: str, layer: str) -> None:
    of_image = replace(probe(name, layer), samples=SAMPLES)
    ours = PROBING[method].heat(of_image)
    net = exact(name) if layer == PIXELS else Behind(of_image)
    for k, target in enumerate((3, 1)):
        agree(method, ours[k], net, None, varied(of_image), target)


def enlarged_logit(target: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: ENLARGED * logits[target]


@pytest.mark.parametrize(("name", "layer"), CASES[:3])
def test_the_scaled_mask_equals_pytorch_grad_cams(name: str, layer: str) -> None:
    pixels = pictures(2)
    ours = evidence(name, layer, pixels, TARGETS)
    with GradCAM(exact(name), [exact(name).get_submodule(layer)]) as oracle:
        for image, (found, classes) in enumerate(zip(ours, TARGETS, strict=True)):
            heat = grad_cam(found)
            for k, target in enumerate(classes):
                expected = oracle(pixels[image : image + 1].clone().requires_grad_(), [enlarged_logit(target)])[0]
                np.testing.assert_allclose(positive(heat[k], *SIZE), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["tiny", "resnet18", "efficientnet_b0"])
def test_the_closed_form_equals_autograd(name: str) -> None:
    net = compiled(name, torch.float64)
    layer, targets = net.spec.default_layer, [[1], [2, 4]]
    passes = Passes(net, pictures(2))
    for i, closed in enumerate(evidence_at(net, layer, pictures(2), targets)):
        assert closed.gradient.shape[2:] == (1, 1)
        head, activation = passes.behind(layer, i), passes.map(layer)[i]
        gradient = head.gradients(
            activation[None], scalars(Plan(targets=tuple(targets[i])), SOFTMAX, passes.logits.shape[1])
        )[:, 0]
        backward = Evidence(activation, gradient)
        exactly = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
        exactly(np.broadcast_to(closed.gradient, gradient.shape), gradient)
        exactly(channel_weights(closed), channel_weights(backward))
        exactly(grad_cam(closed), grad_cam(backward))
