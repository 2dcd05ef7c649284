"""FastAPI, its thread pool, torch, and pytorch-grad-cam: one request, one photograph through the network.

Requests run side by side, each on one core (OMP_NUM_THREADS=1).

`python -m benchmarks.rivals.fastapi_gradcam PORT`
"""

from __future__ import annotations

import copy
import sys
import threading
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from pytorch_grad_cam import GradCAM

from benchmarks.rivals.network import Network, mask_png

app = FastAPI()
network = Network()

# Its hooks stay on the network, so predictions have one without them.
explained = copy.deepcopy(network)
# Its backward pass goes as deep as parameters want a gradient: no deeper than the layer that is explained.
explained.net.requires_grad_(False)
explained.layer.requires_grad_(True)
grad_cam = GradCAM(model=explained.net, target_layers=[explained.layer])
# It keeps activations and gradients on itself between its forward and its backward pass.
lock = threading.Lock()


@app.get("/health")
def health() -> str:
    return "ok"


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    return await run_in_threadpool(_predict, await request.body())


@app.post("/grad-cam")
async def mask(request: Request) -> Response:
    return Response(await run_in_threadpool(_grad_cam, await request.body()), media_type="image/png")


def _predict(data: bytes) -> dict[str, Any]:
    pixels = network.decode(data)[None]
    with torch.inference_mode():
        return network.predictions(network.net(pixels)[0])


def _grad_cam(data: bytes) -> bytes:
    pixels = network.decode(data)[None]
    with lock:
        (heat,) = grad_cam(pixels, targets=None)  # of the most probable class
    return mask_png(heat)


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
