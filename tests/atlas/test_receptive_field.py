"""The receptive field from the graph is where autograd's gradient lies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pellucid.atlas.receptive_field import receptive_fields
from pellucid.network.spec import PreprocessSpec
from tests import networks


class Odd(nn.Module):
    """Strides, dilation, padding that loses pixels, pools, resizing, a transposed convolution, branches."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.wide = nn.Conv2d(4, 4, 3, 1, 2, dilation=2, groups=4)
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.odd = nn.AdaptiveAvgPool2d((5, 7))
        self.up = nn.ConvTranspose2d(4, 4, 3, 2, 1)
        self.larger = nn.Upsample((12, 15), mode="bilinear")
        self.cut = nn.Conv2d(4, 6, 2, 3)
        self.skip = nn.Conv2d(6, 6, 1)
        self.classifier = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.wide(nn.functional.pad(self.first(x), (0, 1, 2, 0)))
        x = self.larger(self.up(self.odd(self.pool(x))))
        x = torch.cat((x[:, 2:], x[:, :2].flip(3)), 1).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        x = self.cut(x)
        x = x + self.skip(x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits


class Gated(nn.Module):
    """A gate between two convolutions, and a max pool."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3)
        self.gate, self.classifier = nn.Linear(4, 4), nn.Linear(4, 3)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None].detach()
        logits: Tensor = self.classifier(self.pool(self.second(x)).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("net", "layers", "exact"),
    [
        (Odd(), ("first", "wide", "pool", "odd", "up", "larger", "cut", "add"), True),
        (Gated(), ("first", "second", "pool"), False),
    ],
)
def test_a_field_is_where_the_gradient_lies(net: nn.Module, layers: tuple[str, ...], exact: bool) -> None:
    for values in net.parameters():  # of one sign, so that nothing cancels
        nn.init.uniform_(values, 0.1, 1)
    size = (33, 40)
    spec = PreprocessSpec(size, 40, "bilinear", (0.5,) * 3, (0.5,) * 3)
    compiled = networks.in_memory(net, spec)
    names = [layer for layer in layers if layer in compiled.spec.by_name]
    assert len(names) == len(layers), [*compiled.spec.by_name]
    fields = receptive_fields(compiled, names)
    found: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: found.__setitem__(name, out))
        for name, module in net.named_modules()
        if name in names
    ]
    pixels = torch.rand(1, 3, *size, requires_grad=True)
    net(pixels)
    for hook in hooks:
        hook.remove()
    for name, value in found.items():
        field = fields[name]
        assert (len(field.rows), len(field.columns)) == value.shape[2:]
        for row in range(0, value.shape[2], 2):
            for column in range(0, value.shape[3], 2):
                (gradient,) = torch.autograd.grad(value[0, :, row, column].sum(), pixels, retain_graph=True)
                there = gradient[0].abs().sum(0)
                ys, xs = (there.any(axis).nonzero()[:, 0].numpy() for axis in (1, 0))
                x0, y0, x1, y1 = field.box(row, column)
                assert x0 <= xs.min() <= xs.max() < x1, name
                assert y0 <= ys.min() <= ys.max() < y1, name
                if exact or name != "pool":
                    assert (x0, y0, x1, y1) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1), (name, row, column)


def test_attention_and_what_is_not_known_see_the_whole_picture() -> None:
    compiled = networks.compiled("tokens")
    fields = receptive_fields(compiled, ["patches", "second"])
    assert fields["patches"].box(1, 2) == (32, 16, 48, 32)
    assert fields["second"].box(1, 2) == (0, 0, 64, 64)
