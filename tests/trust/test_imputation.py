"""Removed pixels are imputed as by ROAD's authors, and known pixels stay unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_grad_cam.metrics.road import NoisyLinearImputer

from pellucid.decode.image import decode
from pellucid.network.spec import PreprocessSpec
from pellucid.resampling import upsample
from pellucid.trust.imputation import NOISE, imputed, linear
from pellucid.types import InputPixels, Pixels, Upload
from tests.support import photograph

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__")  # the oracle passes tensors to numpy

SPEC = PreprocessSpec((224, 224), 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def pixels() -> InputPixels:
    return decode(Upload(photograph("cat")), SPEC, 10**7, None, 10**5).pixels


def mask(kind: str, share: float, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Random pixels, or the blobs of a coarse random map."""
    generator = np.random.default_rng(0)
    height, width = size
    if kind == "pixels":
        values = generator.random(size, np.float32)
    else:
        values = upsample(generator.standard_normal((7, 7)).astype(np.float32), width, height)
    removed: NDArray[np.bool_] = values >= np.quantile(values, 1 - share)
    return removed


@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("kind", ["pixels", "blobs"])
@pytest.mark.parametrize("size", [(64, 64), (57, 90)])
def test_the_solution_equals_that_of_a_direct_solver(
    pixels: Pixels, kind: str, share: float, size: tuple[int, int]
) -> None:
    picture = pixels[: size[0], : size[1]]
    removed = mask(kind, share, size)
    known = torch.from_numpy((~removed).astype(np.float32))
    oracle = NoisyLinearImputer(noise=0)(torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32)), known)
    found = linear(picture, removed)
    assert np.abs(found - oracle.numpy()).max() < 2  # 8-bit levels; the noise has 2.55
    assert np.sqrt(((found - oracle.numpy())[:, removed] ** 2).mean()) < 0.5


def test_known_pixels_stay_and_imputed_ones_have_the_noise(pixels: Pixels) -> None:
    removed = mask("blobs", 0.5, pixels.shape[:2])
    one, again, other = (imputed(pixels, removed, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert np.array_equal(one[~removed], pixels[~removed])
    assert (one[removed].astype(float) - other[removed]).std() == pytest.approx(NOISE * np.sqrt(2), rel=0.05)


def test_a_uniform_picture_stays_uniform_and_one_without_pixels_is_grey() -> None:
    even = np.full((40, 30, 3), (10, 130, 250), np.uint8)
    found = linear(even, mask("blobs", 0.7, (40, 30)))
    np.testing.assert_allclose(found, even.transpose(2, 0, 1), atol=0.1)
    assert (linear(even, np.ones((40, 30), bool)) == 127.5).all()
