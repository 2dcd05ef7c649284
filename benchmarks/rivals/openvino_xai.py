"""FastAPI, its thread pool, and OpenVINO XAI: ReciproCAM as a branch of the compiled graph, without gradients.

In an environment of its own, `.venv-xai`, because it pins an OpenVINO and a NumPy of 2024. There is no torch in it: the
network comes from the folder that `benchmarks.rivals.exported` wrote.

The branch is inserted by the library and compiled here: its own Explainer makes one inference at a time.

`.venv-xai/bin/python -m benchmarks.rivals.openvino_xai FOLDER PORT`
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from openvino_xai import Task, insert_xai
from openvino_xai.explainer.visualizer import resize
from PIL import Image

from benchmarks.rivals.exported import predictions

Array = np.ndarray[Any, np.dtype[Any]]

app = FastAPI()
core = ov.Core()
folder = Path(sys.argv[1])
around = json.loads((folder / "network.json").read_text("utf-8"))
size, mean, std = around["size"], *(np.array(around[name], np.float32)[:, None, None] for name in ("mean", "std"))


class Graph:
    """A compiled graph, and as many requests as it can run side by side, each on cores of its own."""

    def __init__(self, model: ov.Model) -> None:
        compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
        self._idle: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
            self._idle.put(compiled.create_infer_request())

    def run(self, pixels: Array) -> list[Array]:
        """Outputs for one image ``[3, H, W]``, without the axis of the batch."""
        request = self._idle.get()
        try:
            return [output[0].copy() for output in request.infer([pixels[None]]).values()]
        finally:
            self._idle.put(request)


plain = core.read_model(folder / "network.xml")
predicting, explaining = Graph(plain), Graph(insert_xai(plain, Task.CLASSIFICATION))


@app.get("/health")
def health() -> str:
    return "ok"


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    return await run_in_threadpool(_predict, await request.body())


@app.post("/recipro-cam")
async def mask(request: Request) -> Response:
    return Response(await run_in_threadpool(_recipro_cam, await request.body()), media_type="image/png")


def _predict(data: bytes) -> dict[str, Any]:
    (logits,) = predicting.run(_decode(data))
    return predictions(logits, around["labels"])


def _recipro_cam(data: bytes) -> bytes:
    """The mask of the most probable class, at the size of the network's input."""
    logits, maps = explaining.run(_decode(data))
    buffer = io.BytesIO()
    Image.fromarray(resize(maps[logits.argmax()], size)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _decode(data: bytes) -> Array:
    """A photograph's bytes -> ``[3, H, W]``, as torchvision's transforms do it."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = (side * around["resize"] // min(picture.size) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling[around["interpolation"].upper()])
    left, top = round((width - size[1]) / 2), round((height - size[0]) / 2)
    picture = picture.crop((left, top, left + size[1], top + size[0]))
    normal: Array = (np.asarray(picture, np.float32).transpose(2, 0, 1) / 255 - mean) / std
    return normal


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning", access_log=False)
