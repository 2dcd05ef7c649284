"""LitServe, which batches up to 8 requests, torch, and captum's LayerGradCam on the whole batch.

A worker a core for each route, of one thread each (OMP_NUM_THREADS=1): the threads of several torch processes would
wait for one another, actively.

`python -m benchmarks.rivals.litserve_captum PORT`
"""

import sys
from typing import Any

import litserve as ls
import litserve.server
import numpy as np
import torch
from captum.attr import LayerGradCam
from fastapi import Request, Response
from torch import Tensor

from benchmarks.rivals.network import Network, mask_png
from pellucid.runtime import cores

# LitServe 0.2 looks for mcp 1; Pellucid's extra `mcp` installs mcp 2, and the server ends.
litserve.server._MCP_AVAILABLE = False

MAX_BATCH = 8
# Without a window its workers ask the queue in a busy loop and take a core each.
WINDOW_S = 0.005


class _Api(ls.LitAPI):
    """Decodes in the worker, where LitServe decodes; the batch is one tensor."""

    def setup(self, device: str) -> None:
        self.network = Network()

    def decode_request(self, request: Request) -> Tensor:
        # what LitServe hands on is the request's form
        return self.network.decode(request["image"].file.read())

    def batch(self, inputs: list[Tensor]) -> Tensor:
        return torch.stack(inputs)


class Predict(_Api):
    """``/predict``"""

    def predict(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = self.network.net(x)
        return logits

    def unbatch(self, output: Tensor) -> list[Tensor]:
        return list(output)

    def encode_response(self, output: Tensor) -> dict[str, Any]:
        return self.network.predictions(output)


class GradCam(_Api):
    """``/grad-cam``: masks of the most probable class, at the size of the network's input."""

    def setup(self, device: str) -> None:
        super().setup(device)
        # No graph is kept for what lies before the layer.
        self.network.net.requires_grad_(False)
        self.network.layer.requires_grad_(True)
        self.grad_cam = LayerGradCam(self.network.net, self.network.layer)

    def predict(self, x: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
        with torch.no_grad():
            best = self.network.net(x).argmax(1)
        heat = self.grad_cam.attribute(x, target=best, relu_attributions=True)
        heat = torch.nn.functional.interpolate(heat.detach(), x.shape[2:], mode="bilinear")[:, 0]  # B H W
        heat -= heat.amin((1, 2), keepdim=True)
        return (heat / heat.amax((1, 2), keepdim=True).clamp_min(1e-9)).numpy()

    def unbatch(self, output: np.ndarray[Any, np.dtype[np.float32]]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        return list(output)

    def encode_response(self, output: np.ndarray[Any, np.dtype[np.float32]]) -> Response:
        return Response(mask_png(output), media_type="image/png")


if __name__ == "__main__":
    options = {"max_batch_size": MAX_BATCH, "batch_timeout": WINDOW_S}
    apis = [Predict(api_path="/predict", **options), GradCam(api_path="/grad-cam", **options)]
    server = ls.LitServer(apis, accelerator="cpu", workers_per_device=cores.available(), timeout=120)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
