"""What the rivals share: the service's default network under plain torch, and torchvision's transforms before it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from models import catalog
from pellucid.network.spec import ModelSpec


class Network:
    """The default network, gates included, and a photograph's way into it and out of it."""

    def __init__(self) -> None:
        self.net: nn.Module
        self.spec: ModelSpec
        self.net, self.spec = catalog.load("lite0")
        self.layer = self.net.get_submodule("head")  # the service's default layer
        preprocess = self.spec.preprocess
        self._transform = transforms.Compose(
            [
                transforms.Resize(preprocess.resize, InterpolationMode(preprocess.interpolation)),
                transforms.CenterCrop(preprocess.size),
                transforms.ToTensor(),
                transforms.Normalize(preprocess.mean, preprocess.std),
            ]
        )

    def decode(self, data: bytes) -> Tensor:
        """A photograph's bytes -> ``[3, H, W]``."""
        tensor: Tensor = self._transform(Image.open(io.BytesIO(data)).convert("RGB"))
        return tensor

    def predictions(self, logits: Tensor) -> dict[str, Any]:
        """Logits ``[classes]`` -> the reply: the five most probable classes."""
        best = logits.softmax(0).topk(5)
        return {
            "predictions": [
                {"index": index, "label": self.spec.labels[index], "probability": probability}
                for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            ]
        }


def mask_png(heat: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """A map in [0, 1] as a greyscale PNG of its size."""
    buffer = io.BytesIO()
    Image.fromarray((heat * 255).round().astype(np.uint8)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
