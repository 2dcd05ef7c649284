"""The training recipe: standardised gates inside a frozen network learn from the same network without gates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional as F

from pellucid.compiler.trace.gates import names_without_gates
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.network.spec import PreprocessSpec

from ..attention import ChannelAttention
from ..insert import gates_of
from .corruptions import TRAINED
from .pictures import Sampler, random_crop, to_pixels

LABEL_WEIGHT = 0.1
# A channel with a smaller deviation is almost constant. Dividing by it would amplify rounding errors.
SMALLEST_DEVIATION = 1e-3
# Avoids a division by zero for a picture whose features are all zero.
SMALLEST_FEATURES = 1e-6


class StandardisedAttention(ChannelAttention):
    """ChannelAttention during training: its MLP sees pooled channels with mean 0 and deviation 1.

    Pooled values differ between channels by orders of magnitude, so without this no learning rate suits all channels.
    """

    mean: Tensor  # C
    deviation: Tensor  # C

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__(len(mean))
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation.clamp(min=SMALLEST_DEVIATION))

    def mlp(self, pooled: Tensor) -> Tensor:
        return super().mlp((pooled - self.mean) / self.deviation)

    def folded(self) -> ChannelAttention:
        """The same function as a plain gate: W (x - m) / d + b = (W / d) x + (b - (W / d) m)."""
        plain = ChannelAttention(len(self.mean))
        weight = self.squeeze.weight.detach().double() / self.deviation.double()
        bias = self.squeeze.bias.detach().double() - weight @ self.mean.double()
        state = {"squeeze.weight": weight, "squeeze.bias": bias}
        plain.load_state_dict(self.excite.state_dict(prefix="excite.") | state)
        return plain


def frozen(traced: TracedNetwork, outputs: Iterable[str]) -> nn.Module:
    """A copy of the network that computes the named values, with batch norms folded into convolutions."""
    return fuse(traced.trunk(list(outputs))).to(memory_format=torch.channels_last)


@torch.no_grad()
def standardise(gated: nn.Module, plain: TracedNetwork, pixels: Tensor) -> None:
    """Replace every gate by a StandardisedAttention, with statistics of the pooled channels of ``pixels``.

    Means and maxima share their statistics, because both go through one MLP, into whose first layer the statistics are
    folded later.
    """
    layers = dict(gates_of(gated))
    name = names_without_gates(gated)
    values = frozen(plain, [plain.value(name(path)) for path in layers])(pixels)
    for layer, value in zip(layers.values(), values, strict=True):
        pooled = torch.cat([value.mean((2, 3)), value.amax((2, 3))])  # 2B C
        layer.gate = StandardisedAttention(pooled.mean(0), pooled.std(0))


def fold(gated: nn.Module) -> None:
    """Undo ``standardise``: replace the gates by plain ChannelAttention modules that compute the same."""
    for _, layer in gates_of(gated):
        if isinstance(layer.gate, StandardisedAttention):
            layer.gate = layer.gate.folded()


@dataclass(frozen=True, slots=True)
class Batch:
    """The same normalised crops ``[B, 3, H, W]``, ``clean`` and ``damaged``, and their ``labels`` ``[B]``."""

    clean: Tensor
    damaged: Tensor
    labels: Tensor


def draw_batch(
    sampler: Sampler, preprocess: PreprocessSpec, side: int, size: int, clean_share: float, chance: np.random.Generator
) -> Batch:
    """Draw random crops. A share of ``clean_share`` is unchanged. The others get one corruption of random strength."""
    corruptions = list(TRAINED.values())
    clean, damaged, labels = [], [], []
    for _ in range(size):
        picture = sampler.draw(chance)
        crop = random_crop(picture.path, side, chance)
        clean.append(crop)
        labels.append(picture.label)
        if chance.random() < clean_share:
            damaged.append(crop)
        else:
            corruption = corruptions[chance.integers(len(corruptions))]
            damaged.append(corruption(crop, chance.random(), chance))
    return Batch(to_pixels(clean, preprocess), to_pixels(damaged, preprocess), torch.tensor(labels))


class Lesson:
    """Trains the gates. The gated network is the student, the plain one the teacher; all other weights are frozen.

    The loss of a batch is KL(teacher || student) + the relative squared error of the pooled features
    + LABEL_WEIGHT x cross-entropy. The student sees the damaged pictures, and the teacher the clean ones.
    """

    def __init__(self, gated: nn.Module, plain: TracedNetwork, size: tuple[int, int], static: bool) -> None:
        student = TracedNetwork(gated, size)  # freezes all parameters
        features = plain.spec.default_layer
        self._teacher = frozen(plain, [plain.value(features), plain.logits])
        self._student = frozen(student, [student.value(features), student.logits])
        self.parameters: list[nn.Parameter] = []
        for path, layer in gates_of(gated):
            for name, part in layer.gate.named_children():
                self._student.set_submodule(
                    f"{path}.gate.{name}", part
                )  # share the gate's parameters, which ``frozen`` copied
                self.parameters += [
                    value for key, value in part.named_parameters(name) if not static or key == "excite.bias"
                ]
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                wanted_map, wanted = self._teacher(batch.clean)
            got_map, got = self._student(batch.damaged)
        wanted_features, features = wanted_map.float().mean((2, 3)), got_map.float().mean((2, 3))  # B C
        wanted, got = wanted.float().log_softmax(1), got.float().log_softmax(1)  # B classes
        size = wanted_features.square().sum(1).clamp(min=SMALLEST_FEATURES)  # B
        error = (features - wanted_features).square().sum(1) / size  # B
        divergence = F.kl_div(got, wanted, log_target=True, reduction="batchmean")
        loss: Tensor = divergence + error.mean() + LABEL_WEIGHT * F.nll_loss(got, batch.labels)
        return loss
