"""Records what Quantus 0.6.0 and pytorch-shapley-cam answer for a small picture: ``faithfulness.npz``.

Quantus needs pandas and OpenCV, which the tests do without. In an environment of its own: ``pip install quantus==0.6.0
torch grad-cam``, then ``python -m tests.benchmarks.record_faithfulness ADCC.py`` with the file of that name of
github.com/caihuaiguang/pytorch-shapley-cam, commit ee02cce.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ANSWERS: Final = Path(__file__).with_name("faithfulness.npz")
SIDE: Final = 16
CLASS: Final = 1
MEAN: Final = 90.0
STEPS: Final = 8
_generator = np.random.Generator(np.random.PCG64(0))
PICTURE: Final = _generator.integers(0, 256, (3, SIDE, SIDE)).astype(np.float32)
HEATS: Final = _generator.standard_normal((2, SIDE, SIDE)).astype(np.float32)
WEIGHTS: Final = _generator.standard_normal((3, 3 * SIDE * SIDE)) / 10


def probabilities(pictures: NDArray[Any]) -> NDArray[Any]:
    """The network: softmax of linear scores ``[n, 3]`` of levels ``[n, 3, SIDE, SIDE]``."""
    powers = np.exp(pictures.reshape(len(pictures), -1) / 255 @ WEIGHTS.T)
    shares: NDArray[Any] = powers / powers.sum(1, keepdims=True)
    return shares


class _Model:
    """The network as Quantus calls it: of a grey picture it keeps the picture."""

    def __init__(self) -> None:
        self.grey: list[NDArray[Any]] = []

    def shape_input(self, x: NDArray[Any], *_: Any, **__: Any) -> NDArray[Any]:
        return x

    def predict(self, x: NDArray[Any]) -> NDArray[Any]:
        if x.shape[1] == 3:
            return probabilities(x)
        self.grey.append(x[0, 0])
        return np.zeros((1, 3))


def main() -> None:
    """Record the scores of pixel flipping and under ROAD's imputation, and ADCC with its parts."""
    import quantus
    import torch

    x, y, heat = PICTURE[None], np.array([CLASS]), HEATS[None, :1]
    step = x.size // STEPS
    flipping = quantus.PixelFlipping(features_in_step=step, perturb_baseline=MEAN, disable_warnings=True)
    road = quantus.ROAD(percentages=[20, 40, 60, 80], noise=0.0, disable_warnings=True)
    road.a_size, model = SIDE * SIDE, _Model()
    # Its ROAD fails on colours, and tells only whether the class stays the first: the pictures that it makes are kept.
    for channel in range(3):
        road.evaluate_batch(model=model, x_batch=x[:, channel : channel + 1], y_batch=y, a_batch=heat)
    cams = np.maximum(HEATS, 0) / HEATS.max((1, 2), keepdims=True)
    found = runpy.run_path(sys.argv[1])["ADCC"]()(
        (torch.from_numpy(x) - MEAN) / 255,
        cams[:1],
        None,
        [lambda scores: scores[CLASS]],
        lambda batch: torch.from_numpy(probabilities(batch.numpy() * 255 + MEAN)),
        lambda *_: cams[1:],
    )
    names = ("adcc", "drop", "coherency", "complexity", "increase")
    answers: dict[str, Any] = {name: value[0] for name, value in zip(names, found, strict=False)}
    np.savez_compressed(
        ANSWERS,
        deletion=flipping.evaluate_batch(model=model, x_batch=x, y_batch=y, a_batch=heat)[0],
        road=probabilities(np.reshape(model.grey, (3, -1, SIDE, SIDE)).swapaxes(0, 1))[:, CLASS],
        **answers,
    )


if __name__ == "__main__":
    main()
