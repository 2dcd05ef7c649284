"""Records what the service really answers: the API docs' examples and the README's pictures. Run by ``make examples``.

Each example is a request that works as it stands, chosen so that its reply is short enough to be read.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from service.app import create_app
from service.config import Settings

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "service" / "web" / "samples" / "cat.jpg"
EXAMPLES = ROOT / "service" / "http" / "openapi_examples.json"
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "cat.jpg"
FIGURE = ROOT / "docs" / "images" / "figure.jpg"
REQUEST_ID = "b1f5c0de7a3e4c55"

QUERIES: dict[str, dict[str, str | list[str]]] = {
    "/v1/predict": {"top_k": "3"},
    "/v1/attention": {"layer": "blocks.0", "target": "Egyptian cat"},
    "/v1/feature-maps": {"layers": "blocks.0", "count": "4", "tile": "28"},
    "/v1/grad-cam": {"target": "Egyptian cat", "overlay": "true", "max_side": "48"},
    "/v1/what-if": {"mute": "795", "target": "Egyptian cat", "top_k": "2", "max_side": "48"},
    "/v1/channels": {"box": "60,20,250,250", "count": "3"},
    "/v1/compare": {"target": ["Egyptian cat", "goldfish"], "top_k": "2", "max_side": "48"},
    "/v1/explain": {"include": "predictions,grad_cam", "top_k": "2", "overlay": "true", "max_side": "48"},
}


async def post(client: httpx.AsyncClient, route: str, query: dict[str, str | list[str]]) -> dict[str, Any]:
    files = {"images": (SAMPLE.name, SAMPLE.read_bytes())}
    response = await client.post(route, params=query, files=files, headers={"X-Request-ID": REQUEST_ID})
    response.raise_for_status()
    reply: dict[str, Any] = response.json()
    return reply


def decoded(picture: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(picture["data"]))).convert("RGB")


def side_by_side(pictures: list[Image.Image], height: int, gap: int = 8) -> Image.Image:
    scaled = [picture.resize((round(picture.width * height / picture.height), height)) for picture in pictures]
    canvas = Image.new("RGB", (sum(p.width for p in scaled) + gap * (len(scaled) - 1), height), "white")
    x = 0
    for picture in scaled:
        canvas.paste(picture, (x, 0))
        x += picture.width + gap
    return canvas


async def main() -> None:
    app = create_app(Settings(precision="fp32"))  # as exact on every machine
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://pellucid") as client,
    ):
        recorded = {
            route: {"query": query, "image": SAMPLE.name, "reply": await post(client, route, query)}
            for route, query in QUERIES.items()
        }
        EXAMPLES.write_text(json.dumps(recorded, indent=1) + "\n", "utf-8")
        shown = await post(client, "/v1/explain", {"overlay": "true"})
        files = {"images": (SAMPLE.name, SAMPLE.read_bytes())}
        accept = {"Accept": "image/png"}
        figure = await client.post("/v1/explain", params={"view": "whole"}, files=files, headers=accept)
        figure.raise_for_status()
    reply = json.dumps(recorded["/v1/predict"]["reply"], indent=2)
    before, _, rest = README.read_text("utf-8").partition("```json\n")
    README.write_text(f"{before}```json\n{reply}\n```{rest.partition('```')[2]}", "utf-8")
    (result,) = shown["results"]
    cam = result["grad_cam"][0]
    grids = [decoded(maps["grid"]) for maps in result["feature_maps"]]
    PICTURE.parent.mkdir(exist_ok=True)
    montage = side_by_side([Image.open(SAMPLE), decoded(cam["overlay"]), decoded(cam["mask"]), *grids], 240)
    montage.save(PICTURE, quality=85, optimize=True)
    Image.open(io.BytesIO(figure.content)).convert("RGB").save(FIGURE, quality=85, optimize=True)
    print("wrote", *(path.relative_to(ROOT) for path in (EXAMPLES, README, PICTURE, FIGURE)))


if __name__ == "__main__":
    asyncio.run(main())
