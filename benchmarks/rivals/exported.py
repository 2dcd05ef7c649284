"""The network for a rival without torch: as OpenVINO IR, and as JSON what stands before and behind it.

`python -m benchmarks.rivals.exported FOLDER`
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import openvino as ov
import torch

from benchmarks.rivals.network import Network

if __name__ == "__main__":
    folder, network = Path(sys.argv[1]), Network()
    shape = (1, 3, *network.spec.preprocess.size)
    model = ov.convert_model(network.net, example_input=torch.zeros(shape), input=shape)
    ov.save_model(model, folder / "network.xml", compress_to_fp16=False)
    around = {**asdict(network.spec.preprocess), "labels": network.spec.labels}
    (folder / "network.json").write_text(json.dumps(around), "utf-8")
