"""Unusual gates: in place, shifted, two from one sigmoid. A factor per channel is a gate, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.compiler.trace.graph import TracedNetwork
from tests.networks import Odd, images

SIZE = (16, 16)


def served(net: nn.Module) -> TracedNetwork:
    return TracedNetwork(net.eval(), SIZE)


class Overwriting(nn.Module):
    """Gates its input in place and returns the input."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x.relu_()
        x.mul_(self.mlp(x.mean((2, 3))).sigmoid()[:, :, None, None])
        return x


class WithOverwriting(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Overwriting()

    def odd(self, x: Tensor) -> Tensor:
        x = self.gate(x)
        return x


def test_a_module_that_returns_its_overwritten_input_names_the_result() -> None:
    net = WithOverwriting().eval()
    returned: list[Tensor] = []
    net.gate.register_forward_hook(lambda _module, _inputs, output: returned.append(output.clone()))
    with torch.no_grad():
        net(images(1, SIZE))
    traced = served(WithOverwriting())
    (gate,) = traced.spec.gates
    assert (gate.layer, gate.before, gate.after) == ("gate", "gate.relu_", "gate")
    with torch.no_grad():
        (value,) = traced.trunk([traced.value("gate")])(images(1, SIZE))
    torch.testing.assert_close(value, returned[0])


class Shifted(Odd):
    """1 + a sigmoid."""

    def odd(self, x: Tensor) -> Tensor:
        return x * (1 + self.scale(x))


class Parted(Odd):
    """Two gates from one sigmoid."""

    def odd(self, x: Tensor) -> Tensor:
        one, other = self.both(x.mean((2, 3))).sigmoid().view(-1, 16, 1, 1).chunk(2, 1)
        x = x * one + self.mid(x) * other
        return x


class Twice(Odd):
    def odd(self, x: Tensor) -> Tensor:
        return x * self.scale(x) * self.scale(x)


class OnPixels(Odd):
    """A gate on the input picture, which is not a layer."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.mean((2, 3)).sigmoid()[:, :, None, None]
        return super().forward(x * scale)

    def odd(self, x: Tensor) -> Tensor:
        return x


class OverChannels(Odd):
    """A softmax over channels at each position, so not one number per channel."""

    def odd(self, x: Tensor) -> Tensor:
        return x * x.softmax(1)


class OnePixel(Odd):
    """A gate on a map of one position."""

    def odd(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)
        return x + pooled * self.scale(pooled)


@pytest.mark.parametrize(
    ("kind", "gates"),
    [(Shifted, 1), (Parted, 2), (Twice, 2), (OnPixels, 0), (OverChannels, 0), (OnePixel, 0)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_only_a_factor_per_channel_is_a_gate(kind: type[Odd], gates: int) -> None:
    traced = served(kind())
    assert len(traced.gates) == len(traced.spec.gates) == gates
    for gate in traced.spec.gates:
        sides = [traced.value(gate.before), traced.value(gate.after)]
        with torch.no_grad():
            before, after, weights = traced.trunk([*sides, traced.gates[gate.layer]])(images(2, SIZE))
        torch.testing.assert_close(after, before * weights.flatten(1)[:, :, None, None])
