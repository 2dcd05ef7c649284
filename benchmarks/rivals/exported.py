"""The network for rivals on OpenVINO: as IR, and as JSON what stands before and behind it. Reading it needs no torch.

`python -m benchmarks.rivals.exported FOLDER`
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np


def predictions(logits: np.ndarray[Any, np.dtype[Any]], labels: list[str]) -> dict[str, Any]:
    """Logits ``[classes]`` -> the reply: the five most probable classes."""
    exponentials = np.exp(logits - logits.max())
    probabilities = exponentials / exponentials.sum()
    best = np.argsort(-probabilities)[:5].tolist()
    return {
        "predictions": [
            {"index": index, "label": labels[index], "probability": float(probabilities[index])} for index in best
        ]
    }


if __name__ == "__main__":
    import openvino as ov
    import torch

    from benchmarks.rivals.network import Network

    folder, network = Path(sys.argv[1]), Network()
    shape = (1, 3, *network.spec.preprocess.size)
    model = ov.convert_model(network.net, example_input=torch.zeros(shape), input=shape)
    ov.save_model(model, folder / "network.xml", compress_to_fp16=False)
    around = {**asdict(network.spec.preprocess), "labels": network.spec.labels}
    (folder / "network.json").write_text(json.dumps(around), "utf-8")
