"""A norm's scale of a gradient is folded into the kernel of the next convolution, for any number of groups."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pellucid.network.graph import WEIGHT
from tests.compiler.recorded import CLASSES, by_autograd, by_torch, recorded

SHAPE = (4, 8, 8)
CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "of all channels": lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False),
    "with stride": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
    "depthwise with stride": lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=False),
    "depthwise to more channels": lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False),
    "in groups": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
    "in groups with stride": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False),
    "transposed in groups": lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2, bias=False),
}


class _Normed(nn.Module):
    """A convolution and a norm with a different scale for every channel."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        channels = convolution(torch.zeros(1, *SHAPE)).shape[1]
        norm = nn.BatchNorm2d(channels)
        norm.weight.data = torch.arange(1.0, channels + 1)
        norm.running_var = torch.linspace(0.5, 2, channels)
        self.layers = nn.Sequential(convolution, norm).double().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_the_scale_of_a_norm_is_folded_into_the_kernel(kind: str) -> None:
    torch.manual_seed(4)
    full, net = recorded(_Normed(CONVOLUTIONS[kind]()), SHAPE)
    chance = torch.Generator().manual_seed(6)
    pixels, wanted = torch.randn(3, *SHAPE, generator=chance).double(), torch.randn(3, CLASSES, generator=chance)
    for found, expected in zip(
        by_torch(full, pixels, wanted.double()), by_autograd(net, pixels, wanted.double()), strict=True
    ):
        torch.testing.assert_close(found, expected)
    graph = full.graph
    constant = {name for name, node in graph.nodes.items() if node.op == WEIGHT}
    for name, node in graph.nodes.items():
        if node.refs and constant.issuperset(node.refs):
            constant.add(name)
    scaled = [node for name, node in graph.nodes.items() if node.op == "aten.mul.Tensor" and name in graph.of_wanted]
    assert not [node for node in scaled if not constant.isdisjoint(node.refs)]
