"""Small seeded networks that tests share. Random weights: the maths must hold for any.

A gradient jumps where an activation has a kink. Two passes that round differently (another runtime, batch size, number
of threads or processor) may fall on different sides of it, and then differ by far more than rounding. So gradients in
float32 are compared in ``tiny``, which has no kinks, and those of networks with a ReLU in float64, where rounding is
smaller than the distance of any of their values from its kink (tests/explain/test_oracles.py measures it).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache, partial

import torch
import torchvision
from torch import Tensor, nn

from models.attention import ChannelAttention
from pellucid.compiler.compiling import compile_network
from pellucid.compiler.trace.graph import TracedNetwork
from pellucid.network.file import CompiledNetwork
from pellucid.network.spec import ModelSpec, PreprocessSpec

SIZE = (64, 64)
PREPROCESS = PreprocessSpec(SIZE, 64, "bilinear", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def trained_gate(channels: int) -> ChannelAttention:
    """A gate as if trained: a new one is 1 for every channel."""
    gate = ChannelAttention(channels)
    nn.init.normal_(gate.excite.weight)
    nn.init.normal_(gate.excite.bias)
    return gate


class TinyNet(nn.Module):
    """A residual connection, a channel gate, in-place activations; global average pooling and one linear layer."""

    def __init__(self, classes: int = 5, activation: type[nn.SiLU | nn.ReLU] = nn.SiLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), activation(inplace=True))
        self.block = nn.Conv2d(8, 8, 3, 1, 1)
        self.gate = trained_gate(8)
        self.activation = activation(inplace=True)
        self.head = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), activation(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.block(x)
        y += x
        y = self.gate(self.activation(y))
        logits: Tensor = self.classifier(self.pool(self.head(y)).flatten(1))
        return logits


class Attention(nn.Module):
    """Tokens that read one another, and pass themselves by."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.norm, self.query, self.key, self.value = nn.LayerNorm(width), *(nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        weights = (self.query(y) @ self.key(y).transpose(1, 2) / 4).softmax(-1)
        mixed: Tensor = x + weights @ self.value(y)
        return mixed


class Tokens(nn.Module):
    """A vision transformer without kinks: 4 x 4 patches and a class token, which alone is read at the end."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 16, 16, 16), nn.Parameter(torch.randn(1, 1, 16))
        self.places = nn.Parameter(torch.randn(1, 17, 16))
        self.first, self.second = Attention(), Attention()
        self.norm, self.classifier = nn.LayerNorm(16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.places
        logits: Tensor = self.classifier(self.norm(self.second(self.first(x)))[:, 0])
        return logits


class Paths(nn.Module):
    """Selective kernels: two maps of one place, weighed against each other channel by channel."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem, self.small, self.large = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.squeeze, self.mid, self.classifier = nn.Linear(8, 16), nn.Conv2d(8, 8, 1), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.stem(x))
        paths = torch.stack((self.small(x), self.large(x)), 1)  # B 2 C h w
        weights = self.squeeze(x.mean((2, 3))).view(-1, 2, 8, 1, 1).softmax(1)
        x = nn.functional.silu(self.mid((paths * weights).sum(1)))
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


class Odd(nn.Module, ABC):
    """Two convolutions for pixels of 16 x 16, and between them what the subclass is odd in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.mid, self.second = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.mlp, self.both, self.classifier = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(8, 5)
        self.flat = nn.Linear(8 * 64, 5)

    @abstractmethod
    def odd(self, x: Tensor) -> Tensor: ...

    def end(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.second(self.odd(self.first(x))))

    def scale(self, x: Tensor) -> Tensor:
        scale: Tensor = self.mlp(x.mean((2, 3))).sigmoid()[:, :, None, None]
        return scale


@cache
def network(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """One of ours by its name below, or a network of torchvision, with seeded weights and norms fitted to seeded noise.

    With unfitted norms a deep random network's activations hardly depend on the picture, and maps are all cancellation.
    """
    if dtype != torch.float32:
        return copy.deepcopy(network(name)).to(dtype)
    torch.manual_seed(0)
    of_ours: dict[str, Callable[[], nn.Module]] = {
        "tiny": TinyNet,
        "tiny-relu": partial(TinyNet, activation=nn.ReLU),
        "tokens": Tokens,
        "paths": Paths,
        "dense": partial(torchvision.models.DenseNet, 8, (2, 3), 16, num_classes=10),
    }
    of_torchvision = partial(torchvision.models.get_model, name, weights=None, num_classes=10)
    net: nn.Module = of_ours[name]() if name in of_ours else of_torchvision()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(images(8))
    return net.eval()


@cache
def traced(name: str, dtype: torch.dtype = torch.float32) -> TracedNetwork:
    """The network of that name, traced at SIZE."""
    return TracedNetwork(copy.deepcopy(network(name, dtype)), SIZE)  # it wants no gradients of the weights, others do


@cache
def compiled(name: str, dtype: torch.dtype = torch.float32) -> CompiledNetwork:
    """The network of that name, compiled at SIZE in memory."""
    return in_memory(network(name, dtype))


@cache
def of_any_size(name: str, dtype: torch.dtype = torch.float32) -> CompiledNetwork:
    """The network of that name, compiled at SIZE in memory with a graph for any size."""
    return in_memory(network(name, dtype), any_size=True)


def in_memory(net: nn.Module, preprocess: PreprocessSpec = PREPROCESS, *, any_size: bool = False) -> CompiledNetwork:
    """A network compiled in memory. Its classes are called a, b, c and so on."""
    kind = next((value.dtype for value in net.parameters()), torch.float32)
    with torch.no_grad():
        classes = net.eval()(images(2, preprocess.size, kind)).shape[1]
    model = ModelSpec(type(net).__name__, "", tuple(map(chr, range(97, 97 + classes))), preprocess, "a seed")
    return compile_network(net, model, None, any_size=any_size)


def images(count: int, size: tuple[int, int] = SIZE, dtype: torch.dtype = torch.float32) -> Tensor:
    """Seeded normal noise ``[count, 3, H, W]``."""
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)
