"""mosec: processes that decode, one that infers in batches by OpenVINO. It answers predictions alone.

The settings are the fastest of those that docs/explanation/performance.md names ("Tried for mosec").

`python -m benchmarks.rivals.mosec_openvino FOLDER PORT`
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import cykooz_resizer as simd
import numpy as np
import openvino as ov
import orjson
import simplejpeg
from mosec import Server, Worker

from benchmarks.rivals.exported import predictions
from pellucid.runtime import cores

Array = np.ndarray[Any, np.dtype[Any]]

MAX_BATCH, WAIT_MS = 8, 1

folder = Path(sys.argv[1])
around = json.loads((folder / "network.json").read_text("utf-8"))
SIZE = around["size"]


class Decode(Worker):
    """A photograph's bytes -> ``[H, W, 3]``: the crop alone is resized, at once."""

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize_ipc(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> bytes:
        # libjpeg halves large photographs where that leaves more than is needed
        picture = simplejpeg.decode_jpeg(data, min_height=around["resize"], min_width=around["resize"])
        height, width, _ = picture.shape
        crop = [side * min(width, height) / around["resize"] for side in SIZE]
        box = simd.CropBox((width - crop[1]) / 2, (height - crop[0]) / 2, crop[1], crop[0])
        method = simd.ResizeAlg.convolution(simd.FilterType.catmull_rom)
        source = simd.ImageData(width, height, simd.PixelType.U8x3, picture.tobytes())
        taken = simd.ImageData(SIZE[1], SIZE[0], simd.PixelType.U8x3)
        simd.Resizer().resize(source, taken, simd.ResizeOptions(method, crop_box=box))
        pixels: bytes = taken.get_buffer()
        return pixels


class Infer(Worker):
    """Pictures -> their five most probable classes. OpenVINO shares a batch among its streams, one a core."""

    def __init__(self) -> None:
        model = ov.Core().read_model(folder / "network.xml")
        model.reshape([-1, 3, *SIZE])
        steps = ov.preprocess.PrePostProcessor(model)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        steps.input().model().set_layout(ov.Layout("NCHW"))
        means, scales = ([255 * value for value in around[name]] for name in ("mean", "std"))
        steps.input().preprocess().convert_element_type(ov.Type.f32).mean(means).scale(scales)
        compiled = ov.Core().compile_model(steps.build(), "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
        streams = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.requests = [compiled.create_infer_request() for _ in range(streams)]
        self.example = [bytes(3 * SIZE[0] * SIZE[1])] * MAX_BATCH

    def deserialize_ipc(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[bytes]) -> list[dict[str, Any]]:
        pixels = np.frombuffer(b"".join(data), np.uint8).reshape(len(data), *SIZE, 3)
        shares = np.array_split(pixels, min(len(self.requests), len(data)))
        for request, share in zip(self.requests, shares, strict=False):
            request.start_async([share], share_inputs=True)
        answers = []
        for request in self.requests[: len(shares)]:
            request.wait()
            answers += [predictions(logits, around["labels"]) for logits in request.get_output_tensor().data]
        return answers

    def serialize(self, data: dict[str, Any]) -> bytes:
        return orjson.dumps(data)


if __name__ == "__main__":
    os.environ |= {"MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": sys.argv[2], "MOSEC_TIMEOUT": "60000"}
    os.environ["MOSEC_LOG_LEVEL"] = "warning"
    server = Server()
    server.append_worker(Decode, num=cores.available(), route="/predict")
    server.append_worker(Infer, max_batch_size=MAX_BATCH, max_wait_time=WAIT_MS, route="/predict")
    server.run()
