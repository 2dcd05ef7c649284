"""Every operation's gradient equals autograd's, in torch and in OpenVINO, for any batch size."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pellucid.compiler.trace.in_place import setitem
from tests.compiler.recorded import CLASSES, Function, by_autograd, by_torch, in_openvino, recorded

SHAPE = (4, 6, 6)


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """In eval mode and float64, with random weights and statistics."""
    torch.manual_seed(5)
    layer = make().double().eval()
    for name, value in (*layer.named_parameters(), *layer.named_buffers()):
        if value.is_floating_point():
            value.data = torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value) * 0.5
    return layer


def _heads(x: Tensor) -> Tensor:
    """Self-attention between positions, with two heads."""
    tokens = x.flatten(2).mT.reshape(x.shape[0], -1, 2, 2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens * 0.5, tokens + 1)


def _windows(x: Tensor) -> Tensor:
    """Self-attention within shifted windows of 3 x 3."""
    shifted = torch.roll(x, (-1, -2), (2, 3)).permute(0, 2, 3, 1)
    parts = shifted.reshape(x.shape[0], 2, 3, 2, 3, 4).permute(0, 1, 3, 2, 4, 5).reshape(-1, 9, 4)
    return (torch.softmax(parts @ parts.mT, -1) @ parts).reshape(x.shape[0], -1)


def _masked(x: Tensor) -> Tensor:
    """Writes in place to a mask and to parts of a copy."""
    mask = x.new_zeros(6, 6)
    mask[:2, 3:] = -1.0
    y = x + mask
    y = setitem(y, (slice(None), ..., slice(1, 5, 2), 3), y[:, :, 1:5:2, 3] * 2.0)
    y.masked_fill_(mask == 0, 0.25)
    return y


ACTIVATIONS: dict[str, Function] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "elu": lambda x: F.elu(x, 0.7),
    "selu": F.selu,
    "celu": lambda x: F.celu(x, 0.7),
    "prelu": _seeded(lambda: nn.PReLU(4)),
    "hardtanh": lambda x: F.hardtanh(x, -0.9, 1.3),
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "mish": F.mish,
    "softplus": lambda x: F.softplus(x, 2.0),
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
    "glu": lambda x: F.glu(x, 1),
    "exp, log, sqrt": lambda x: (x.exp() + 1).log().sqrt(),
    "sin, cos, abs, reciprocal": lambda x: (x.sin() + x.cos().abs() + 2).reciprocal(),
    "pow": lambda x: x.pow(2) + (x.abs() + 1) ** 1.5,
    "hardtanh from 0": lambda x: F.hardtanh(x, 0.0, math.inf) + F.hardtanh(x, 0.0, 0.3) + F.hardtanh(x, 0.0, 1.0),
    "hardtanh to 1": lambda x: F.hardtanh(x, -math.inf, 1.0),
    "clamp": lambda x: x.clamp(-0.9, 1.3) + x.clamp(min=0.1) + x.clamp(max=0.2),
    "maximum": lambda x: torch.maximum(x, 0.3 * x) + torch.minimum(x, 2 * x + 0.1),
    "where": lambda x: torch.where(x > 0.1, x * 2, x * x),
}
OTHERS: dict[str, Function] = {
    "softmax": lambda x: torch.softmax(x, 1),
    "log_softmax": lambda x: torch.log_softmax(x, 1),
    "logsumexp": lambda x: torch.logsumexp(x, (2, 3)),
    "layer norm": _seeded(lambda: nn.LayerNorm(6)),
    "group norm": _seeded(lambda: nn.GroupNorm(2, 4)),
    "instance norm": _seeded(lambda: nn.InstanceNorm2d(4, affine=True)),
    "batch norm": _seeded(lambda: nn.BatchNorm2d(4)),
    "convolution": _seeded(lambda: nn.Conv2d(4, 6, 3, padding=1)),
    "strided convolution": _seeded(lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1)),
    "dilated convolution": _seeded(lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2)),
    "depthwise convolution": _seeded(lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4)),
    "grouped convolution": _seeded(lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2)),
    "convolution without padding of a kernel of 1": _seeded(lambda: nn.Conv2d(4, 6, 1, padding=1)),
    "transposed convolution": _seeded(lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1)),
    "convolution along channels": lambda x: F.conv1d(
        x.mean((2, 3))[:, None], x.new_tensor([[[1.0, -2, 3]]]), padding=1
    ),
    "max_pool of windows that overlap": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max_pool with stride 1": lambda x: F.max_pool2d(x, 3, 1, 1),
    "max_pool to the ceiling": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "max_pool to a ceiling beyond": lambda x: F.max_pool2d(x[:, :, :5, :5], 2, 2, ceil_mode=True),
    "dilated max_pool": lambda x: F.max_pool2d(x, 2, 1, dilation=2),
    "max_pool of a large window": lambda x: F.max_pool2d(x, 6),
    "adaptive max_pool": lambda x: F.adaptive_max_pool2d(x, 2),
    "max of channels": lambda x: torch.max(x, 1, keepdim=True)[0],
    "amax": lambda x: x.amax((2, 3)),
    "avg_pool": lambda x: F.avg_pool2d(x, 2),
    "avg_pool of windows that overlap": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg_pool without padding's": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg_pool to the ceiling": lambda x: F.avg_pool2d(x[:, :, :5], 2, 2, ceil_mode=True),
    "avg_pool with a divisor": lambda x: F.avg_pool2d(x, 3, 1, 1, divisor_override=5),
    "adaptive avg_pool that divides": lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
    "adaptive avg_pool": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "adaptive avg_pool to more": lambda x: F.adaptive_avg_pool2d(x, 7),
    "global pool of channels last": lambda x: F.adaptive_avg_pool2d(x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 1),
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest to no multiple": lambda x: F.interpolate(x, size=(7, 10)),
    "bilinear": lambda x: F.interpolate(x, size=(9, 5), mode="bilinear"),
    "bilinear, aligned": lambda x: F.interpolate(x, size=(9, 5), mode="bilinear", align_corners=True),
    "bicubic": lambda x: F.interpolate(x, size=(9, 5), mode="bicubic"),
    "reflected padding": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "replicated padding": lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
    "circular padding": lambda x: F.pad(x, (1, 2, 3, 0), mode="circular"),
    "padding and cropping": lambda x: F.pad(F.pad(x, (1, 2, 3, 0), value=0.5), (-1, -1, -2, 0)),
    "unfold": lambda x: F.unfold(x, 3, padding=1, stride=2),
    "fold": lambda x: F.fold(x.flatten(2), (7, 7), 2),
    "windows along an axis": lambda x: x.unfold(2, 3, 2),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
    "slices with steps": lambda x: torch.cat((x[:, :, 1::2, :5:3].flatten(1), x[:, 1:-1, -3:].flatten(1)), 1),
    "select": lambda x: x[:, 1] * x[:, 0, -1:, 2:3],
    "split and stack": lambda x: torch.stack([*torch.split(x, 3, 1)[0].unbind(1), *x.chunk(2, 1)[1].unbind(1)], 2),
    "roll and flip": lambda x: torch.roll(x, (2, -1), (1, 3)).flip(2),
    "index": lambda x: x[:, torch.tensor([3, 0, 3])].index_select(2, torch.tensor([1, 1, 4])),
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "expand": lambda x: x.mean((2, 3), keepdim=True).expand_as(x) * x,
    "two expands": lambda x: x.mean((2, 3), True).expand_as(x) * x.mean((2, 3), True).tanh().expand_as(x),
    "a map pooled twice": lambda x: x.mean((2, 3)) * F.adaptive_avg_pool2d(x, 1).flatten(1).tanh(),
    "vector norms": lambda x: x / x.norm(dim=(2, 3), keepdim=True) + F.normalize(x, dim=1, p=3),
    "global response norm": lambda x: x * x.norm(2, (2, 3), True) / x.norm(2, (2, 3), True).mean(1, keepdim=True),
    "variance and deviation": lambda x: x.var(1) + x.std((2, 3), correction=0).unsqueeze(-1).unsqueeze(-1)[:, 0],
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x * 0.5 + 1),
    "heads": _heads,
    "windows": _windows,
    "addcmul": lambda x: torch.addcmul(x, x, x * 2, value=0.5) + torch.addcdiv(x, x, x * x + 1),
    "writing in place": _masked,
}


# These merge images with another axis.
MERGED = ("windows", "instance norm")


def _values(count: int) -> Tensor:
    """Numbers away from the kinks of all these functions. No two of an image are equal."""
    size = count * SHAPE[0] * SHAPE[1] * SHAPE[2]
    order = torch.randperm(size, generator=torch.Generator().manual_seed(7))
    return (((order + 0.5) / size - 0.5) * 9).round(decimals=5).reshape(count, *SHAPE).double()


@pytest.mark.parametrize("name", [*ACTIVATIONS, *OTHERS])
def test_the_gradient_equals_autograds_for_any_batch_size_and_for_several_classes_of_one_image(name: str) -> None:
    full, net = recorded((ACTIVATIONS | OTHERS)[name], SHAPE)
    by_openvino = in_openvino(full, SHAPE)
    pixels, wanted = _values(5), torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(8)).double()
    for count in (1, 5):
        given = pixels[:count], wanted[:count]
        expected = by_autograd(net, *given)
        for found, other in zip(by_torch(full, *given), expected, strict=True):
            torch.testing.assert_close(found, other, rtol=1e-7, atol=1e-7)
        for found, other in zip(by_openvino(*given), expected, strict=True):
            assert found.shape == other.shape
            assert (found - other).abs().max() < 1e-4 * other.abs().max()
    if name in MERGED:
        return
    classes = torch.eye(CLASSES, dtype=torch.float64)
    gradient = torch.cat([by_autograd(net, pixels[:1], row[None])[1] for row in classes])
    torch.testing.assert_close(by_torch(full, pixels[:1], classes)[1], gradient, rtol=1e-7, atol=1e-7)
    assert (by_openvino(pixels[:1], classes)[1] - gradient).abs().max() < 1e-4 * gradient.abs().max()


@pytest.mark.parametrize("window", [2, 3, 6])
def test_max_pooling_gives_the_gradient_to_the_first_of_equal_maxima_as_in_torch(window: int) -> None:
    full, net = recorded(lambda x: F.max_pool2d(x, window, padding=0 if window == 6 else 1), SHAPE)
    zeros = torch.randint(-3, 2, (2, *SHAPE), generator=torch.Generator().manual_seed(9)).relu().double()
    zeros[0] = 0  # windows that hold only zeros
    wanted = torch.eye(CLASSES, dtype=torch.float64)[:2]
    expected = by_autograd(net, zeros, wanted)[1]
    assert torch.allclose(by_torch(full, zeros, wanted)[1], expected)
    assert (in_openvino(full, SHAPE)(zeros, wanted)[1] - expected).abs().max() < 1e-5


def test_a_row_of_zeros_in_wanted_means_the_first_top_class() -> None:
    full, net = recorded(lambda x: x, SHAPE)
    pixels = _values(5)[:2]
    pixels[1] = 0  # all logits are equal
    (logits,) = net(pixels)
    top = torch.eye(CLASSES, dtype=torch.float64)[[int(logits[0].argmax()), 0]]
    zeros = torch.zeros(2, CLASSES, dtype=torch.float64)
    expected = by_autograd(net, pixels, top)[1]
    for found in (by_torch(full, pixels, zeros), in_openvino(full, SHAPE)(pixels, zeros)):
        assert (found[1] - expected).abs().max() < 1e-5
