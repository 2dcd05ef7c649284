"""The output of a network: declared or found out, written to a file and read again. What contradicts is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pellucid
from pellucid.compiler.compiling import CompileError
from pellucid.network.file import load
from pellucid.network.spec import OutputSpec
from tests.explain.passes import Passes
from tests.networks import images

SIZE = (16, 16)
ABC = ("a", "b", "c")


class Own(nn.Module):
    """A convolution, a head of ``outputs``, and an end."""

    def __init__(
        self, outputs: int = 3, end: Callable[[Tensor], Tensor] = lambda logits: logits, *, dense: bool = False
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.end, self.dense = nn.Conv2d(3, 8, 3, 2, 1), end, dense
        self.head: nn.Module = nn.Conv2d(8, outputs, 3, 1, 1) if dense else nn.Linear(8, outputs)

    def logits(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        found: Tensor = self.head(x if self.dense else x.mean((2, 3)))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.logits(x))


def compiled(net: nn.Module, path: Path, **options: Any) -> pellucid.CompiledNetwork:
    return pellucid.compile(net, path / "own.pellucid", size=SIZE, progress=False, **options)


DENSE = partial(Own, 3, dense=True)
DECLARED: dict[str, tuple[nn.Module, dict[str, Any], OutputSpec]] = {
    "labels": (
        Own(),
        {"output": "sigmoid", "labels": ABC, "threshold": 0.3},
        OutputSpec("sigmoid", (3,), threshold=0.3),
    ),
    "one label": (Own(1), {"output": "sigmoid", "labels": ["a"]}, OutputSpec("sigmoid", (1,))),
    "quantities": (
        Own(2),
        {"output": "linear", "labels": ["age", "mass"], "units": ["years", ""]},
        OutputSpec("linear", (2,), ("years", "")),
    ),
    "a segmentation": (
        DENSE(),
        {"labels": ABC, "background": "b"},
        OutputSpec("dense", (3, 8, 8), background=1),
    ),
    "one class": (Own(1, dense=True), {"labels": ["a"]}, OutputSpec("dense", (1, 8, 8))),
    "an embedding": (Own(5), {"output": "embedding"}, OutputSpec("embedding", (5,))),
    "a sigmoid at the end": (Own(3, torch.sigmoid), {"labels": ABC}, OutputSpec("sigmoid", (3,))),
    "a softmax at the end": (Own(3, nn.Softmax(1)), {"labels": ABC}, OutputSpec("softmax", (3,))),
}


@pytest.mark.parametrize("case", DECLARED)
def test_the_output_is_kept_in_the_file(tmp_path: Path, case: str) -> None:
    net, options, output = DECLARED[case]
    made = compiled(net, tmp_path, **options)
    found = load(tmp_path / "own.pellucid")
    assert found.model.output == made.model.output == output
    assert found.model.labels == tuple(options.get("labels", ()))
    assert found.manifest == made.manifest.model_copy(update={"sha256": found.manifest.sha256})
    assert found.model.described_output in repr(found)


ENDS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "nn.Sigmoid": (nn.Sigmoid(), "sigmoid"),
    "torch.sigmoid": (torch.sigmoid, "sigmoid"),
    "Tensor.sigmoid": (lambda logits: logits.sigmoid(), "sigmoid"),
    "Tensor.sigmoid_": (lambda logits: logits.sigmoid_(), "sigmoid"),
    "nn.Softmax": (nn.Softmax(1), "softmax"),
    "F.softmax": (partial(F.softmax, dim=1), "softmax"),
    "a named input": (lambda logits: torch.softmax(input=logits, dim=1), "softmax"),
    "Tensor.softmax": (lambda logits: logits.softmax(1), "softmax"),
}


@pytest.mark.parametrize(
    ("end", "dense"), [(end, dense) for end in ENDS for dense in (False, True) if not (dense and "igmoid" in end)]
)
def test_the_function_at_the_end_is_left_out_of_the_logits(tmp_path: Path, end: str, dense: bool) -> None:
    function, kind = ENDS[end]
    net = Own(3, function, dense=dense)
    found = compiled(net, tmp_path, labels=ABC)
    assert found.model.output.kind == ("dense" if dense else kind)
    pixels = images(2, SIZE)
    with torch.no_grad():
        np.testing.assert_allclose(Passes(found, pixels).logits, net.logits(pixels).flatten(1), atol=1e-5)
    # Its gradients have a closed form, as if it had been written without.
    assert any(value.linear for value in found.manifest.values.values()) == (not dense)


def test_a_quantity_keeps_the_function_at_its_end(tmp_path: Path) -> None:
    net = Own(1, torch.sigmoid)
    found = compiled(net, tmp_path, output="linear", labels=["share"])
    with torch.no_grad():
        np.testing.assert_allclose(Passes(found, images(2, SIZE)).logits, net(images(2, SIZE)), atol=1e-5)


def test_an_embedding_has_length_1(tmp_path: Path) -> None:
    net = Own(5)
    found = compiled(net, tmp_path, output="embedding")
    with torch.no_grad():
        expected = F.normalize(net(images(2, SIZE)))
    np.testing.assert_allclose(Passes(found, images(2, SIZE)).logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "options", "said"),
    [
        (Own(), {"labels": ABC}, "returns 3 numbers, whose meaning can't be guessed. Declare the output: softmax"),
        (
            Own(3, lambda logits: logits[:, :, None, None]),
            {"labels": ABC},
            "returns 3 numbers, whose meaning can't be guessed",
        ),
        (
            Own(),
            {"labels": ABC, "output": "logits"},
            "output must be one of softmax, sigmoid, linear, dense, embedding",
        ),
        (Own(), {"labels": ABC, "output": "dense"}, r"returns \[B, 3\], and the output dense has the shape \[B, class"),
        (
            DENSE(),
            {"labels": ABC, "output": "sigmoid"},
            r"returns \[B, 3, 8, 8\], and the output sigmoid has the shape",
        ),
        (Own(1), {"labels": ["a"], "output": "softmax"}, "a single number, whose softmax is always 1. Declare"),
        (Own(3, torch.sigmoid), {"labels": ABC, "output": "softmax"}, "ends with a sigmoid, and the output softmax is"),
        (Own(3, nn.Softmax(1)), {"labels": ABC, "output": "sigmoid"}, "ends with a softmax, and the output sigmoid is"),
        (Own(), {"labels": ABC[:2], "output": "linear"}, "has 3 quantities, and 2 labels are given"),
        (
            Own(),
            {"labels": ABC, "output": "embedding"},
            "has an embedding, which has no labels, and 3 labels are given",
        ),
        (DENSE(), {"labels": ABC[:2]}, "has 3 classes, and 2 labels are given"),
        (Own(), {"labels": ABC, "output": "softmax", "units": ["m"] * 3}, "only the output linear has units"),
        (Own(), {"labels": ABC, "output": "linear", "units": ["m"]}, "one for each of its quantities"),
        (Own(), {"labels": ABC, "output": "linear", "units": "m"}, "must be lists with an entry for each output"),
        (Own(), {"labels": ABC, "output": "sigmoid", "background": "a"}, "only the output dense has a background"),
        (DENSE(), {"labels": ABC, "background": "sky"}, "background 'sky' is not among the labels"),
        (
            DENSE(),
            {"labels": ABC, "background": 3},
            "one of its classes, not 3 of dense",
        ),
        (
            DENSE(),
            {"labels": ABC, "background": -1},
            "one of its classes, not -1 of dense",
        ),
        (Own(), {"labels": ABC, "output": "sigmoid", "threshold": 1.0}, "threshold is a probability between 0 and 1"),
        (
            Own(300, dense=True),
            {"labels": [*map(str, range(300))]},
            "has 300 classes at each position; at most 256 are supported",
        ),
        (
            nn.Flatten(2),
            {"labels": ABC},
            r"a tensor of shape \[.*\]: it must return one tensor, \[B, outputs\] or \[B, ",
        ),
    ],
)
def test_a_contradictory_output_is_refused_in_a_sentence(
    tmp_path: Path, net: nn.Module, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(CompileError, match=said) as error:
        compiled(net, tmp_path, **options)
    assert "\n" not in str(error.value)
    assert not [*tmp_path.iterdir()]


class _Squashed(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 3, 3, padding=1), last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Softmax2d()], ids=["softmax", "softmax2d"])
def test_a_segmentation_that_ends_in_a_softmax_has_the_networks_probabilities(last: nn.Module, tmp_path: Path) -> None:
    net = _Squashed(last).eval()
    done = pellucid.compile(net, tmp_path / "x.pellucid", labels=[*"abc"], size=16, resize=16, progress=False)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    (found,) = pellucid.open(done, precision="fp32").grad_cam(picture, target="b", region=["picture"], layer="conv")
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (done.model.preprocess.mean, done.model.preprocess.std))
    pixels = (torch.from_numpy(picture).permute(2, 0, 1) / 255 - mean) / std
    with torch.no_grad():
        assert found.target.probability == pytest.approx(float(net(pixels[None])[0, 1].mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("last", "said"), [(nn.Sigmoid(), "compile a network for each class"), (nn.Softmax(-1), "the classes are axis 1")]
)
def test_a_segmentation_with_another_squash_is_refused(last: nn.Module, said: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=said):
        pellucid.compile(_Squashed(last), tmp_path / "x.pellucid", labels=[*"abc"], size=16, progress=False)
