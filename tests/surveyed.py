"""The networks of the survey: every classification network of torchvision, and of timm one or more of each family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import timm
import torchvision
from timm.layers.gather_excite import GatherExcite
from torch import nn

CLASSES = 10
SMALL = 64
# Networks whose last maps would vanish in a picture that small, or whose input is fixed; and one whose norms, fitted to
# so few positions, would amplify a change of 1e-15 to another answer.
SIZES = {
    **{"alexnet": 96, "inception_v3": 96, "inception_v4": 96, "inception_resnet_v2": 96, "bat_resnext26ts": 256},
    "efficientnet_v2_l": 128,
}

# Its channel gates: SE, eSE, ECA, GE, GC, CBAM, SK, split attention.
TIMM_GATES = """
legacy_seresnet18 seresnext26d_32x4d seresnext26ts seresnet33ts cs3sedarknet_l efficientnet_b0 tf_efficientnet_b0
tf_efficientnetv2_b0 efficientnet_cc_b0_4e mixnet_s tf_mixnet_s tinynet_e fbnetv3_b hardcorenas_a rexnet_100
mobilenetv3_small_050 tf_mobilenetv3_small_075 semnasnet_075 lcnet_050 ghostnet_050 ghostnetv2_100 regnety_002
regnetz_005 regnetz_b16 nf_regnet_b0 nf_seresnet26 nfnet_l0 repvit_m0_9 mobileone_s4 tresnet_m fastvit_sa12
maxvit_pico_rw_256 ese_vovnet19b_dw hgnet_tiny hgnetv2_b0 ecaresnet26t eca_resnext26ts eca_nfnet_l0 nf_ecaresnet26
eca_botnext26ts_256 gcresnext26ts gcresnet50t skresnet18 skresnext50_32x4d resnest14d resnest50d_1s4x24d
"""
TIMM_PLAIN = """
resnet18d resnetblur50 resnetv2_50 nf_resnet26 res2net50_14w_8s dla34 dla46_c hrnet_w18_small dpn48b cspresnet50
darknet53 selecsls42 gernet_s repvgg_a0 vgg11_bn densenet121 inception_v4 inception_resnet_v2 xception41 convnext_atto
convnextv2_atto convmixer_768_32 edgenext_xx_small efficientnet_lite0 tf_efficientnet_lite0 mobilenetv4_conv_small_035
starnet_s1 rdnet_tiny inception_next_atto mambaout_femto bat_resnext26ts poolformer_s12
"""
TIMM_TOKENS = """
vit_tiny_patch16_224 vit_small_patch16_dinov3 deit_tiny_distilled_patch16_224 cait_xxs24_224
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 coatnet_pico_rw_224 mobilevit_xxs pvt_v2_b0 efficientformer_l1
levit_128s mvitv2_tiny
"""
# The gates that no pretrained network of timm has, in a ResNet.
TIMM_ATTENTION = ("cbam", "lcbam", "ge", "gc", "ecam", "ceca", "coord")
_BY_CLASS = {"ge": partial(GatherExcite, use_mlp=False)}  # by name, timm 1.0.31 makes it with arguments in disorder


@dataclass(frozen=True)
class Entry:
    """A network of a library, how to make it, and the side of the square input that it is examined with."""

    library: str
    name: str
    size: int
    make: Callable[[], nn.Module]


def entries() -> list[Entry]:
    """All networks of the table."""
    return [*map(of_torchvision, torchvision.models.list_models(module=torchvision.models)), *_all_of_timm()]


def of_torchvision(name: str) -> Entry:
    size = SIZES.get(name, SMALL)
    options: dict[str, object] = {}
    if name in ("inception_v3", "googlenet"):  # without the heads that serve training alone, as they are loaded
        options = {"aux_logits": False, "init_weights": False}
    elif name.startswith("vit_"):  # a grid of 4 x 4 patches
        size = 4 * int(name.rpartition("_")[2])
        options = {"image_size": size}
    elif name == "maxvit_t":
        size = 224
    make = partial(torchvision.models.get_model, name, weights=None, num_classes=CLASSES, **options)
    return Entry("torchvision", name, size, make)


def of_timm(name: str, size: int | None = None) -> Entry:
    size = size or SIZES.get(name, 256 if name.endswith("_256") else SMALL)
    return Entry("timm", name, size, partial(timm.create_model, name, num_classes=CLASSES))


def with_attention(kind: str) -> Entry:
    """timm's resnet18 with a gate of this kind in every block."""
    block_args = {"attn_layer": _BY_CLASS.get(kind, kind)}
    make = partial(timm.create_model, "resnet18", num_classes=CLASSES, block_args=block_args)
    return Entry("timm", f"resnet18 with {kind}", SMALL, make)


def _all_of_timm() -> list[Entry]:
    names = (TIMM_GATES + TIMM_PLAIN).split()
    convolutional = [of_timm(name) for name in names]
    tokens = [of_timm(name, 224) for name in TIMM_TOKENS.split()]
    return [*convolutional, *map(with_attention, TIMM_ATTENTION), *tokens]
