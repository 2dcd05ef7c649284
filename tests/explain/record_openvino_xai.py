"""Records what openvino-xai 1.1.0 answers for small networks: ``openvino_xai.npz``, ReciproCAM's oracle.

openvino-xai pins an OpenVINO and a NumPy of 2024, so it can't be installed beside the tests. In an environment of its
own: ``pip install openvino-xai==1.1.0 torch torchvision``, then ``python tests/explain/record_openvino_xai.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

ANSWERS: Final = Path(__file__).with_name("openvino_xai.npz")
SIDE: Final = 32
CLASSES: Final = 5
NORM: Final = "encoder.layers.encoder_layer_1.ln_1"  # the first norm of the last block, as in the paper
# Name of an answer -> network, layer, the class in openvino-xai's module ``methods.white_box.torch``, and its options.
CASES: Final[dict[str, tuple[str, str, str, dict[str, bool]]]] = {
    "recipro-cam middle": ("cnn", "2", "TorchReciproCAM", {}),
    "recipro-cam last": ("cnn", "5", "TorchReciproCAM", {}),
    "recipro-cam tokens": ("vit", NORM, "TorchViTReciproCAM", {"use_gaussian": False}),
    "vit-recipro-cam tokens": ("vit", NORM, "TorchViTReciproCAM", {}),
}


def network(name: str) -> nn.Module:
    """``cnn`` or ``vit``, in float32. Its weights come from numpy, whose generators do not change."""
    net: nn.Module = (
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.SiLU()),
            *(nn.Conv2d(8, 12, 3, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, CLASSES)),
        )
        if name == "cnn"
        else torchvision.models.VisionTransformer(SIDE, 8, 2, 4, 24, 32, num_classes=CLASSES)
    )
    generator = np.random.Generator(np.random.PCG64(0))
    for parameter in net.parameters():
        values = generator.standard_normal(parameter.shape) / max(1, parameter[0].numel()) ** 0.5
        parameter.data = torch.from_numpy(values.astype(np.float32))
    return net.eval()


def picture() -> Tensor:
    """A normalised picture ``[1, 3, SIDE, SIDE]``."""
    noise = np.random.Generator(np.random.PCG64(1)).standard_normal((1, 3, SIDE, SIDE))
    return torch.from_numpy(noise.astype(np.float32))


def main() -> None:
    """Record the maps ``[classes, h, w]`` of every case, not scaled."""
    from openvino_xai.methods.white_box import torch as oracle

    answers: dict[str, Any] = {}
    for case, (name, layer, kind, options) in CASES.items():
        explainer = getattr(oracle, kind)(network(name), target_layer=layer, embed_scaling=False, **options)
        answers[case] = explainer.generate_saliency_map(picture().numpy())[0]
    np.savez_compressed(ANSWERS, **answers)


if __name__ == "__main__":
    main()
