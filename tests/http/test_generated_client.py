"""Others can have a client made: what a generator writes from /openapi.json asks a real server, and reads it."""

from __future__ import annotations

import base64
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAME = "generated_pellucid"
# As docs/how-to/client.md has it; the generator need not be told to tidy up after itself.
SETTINGS = {"content_type_overrides": {"image/*": "application/octet-stream"}, "post_hooks": [], "http_timeout": 100}


@pytest.fixture(scope="module")
def generated(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Imports modules of the generated package, which leaves no warning behind."""
    folder = tmp_path_factory.mktemp("client")
    settings = folder / "settings.json"
    settings.write_text(json.dumps(SETTINGS))
    program = Path(sys.executable).parent / "openapi-python-client"
    command: list[str | Path] = [program, "generate", "--url", f"{server}/openapi.json", "--output-path", folder / NAME]
    command += ["--meta", "none", "--config", settings, "--fail-on-warning"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    yield lambda module: importlib.import_module(f"{NAME}.{module}")
    sys.path.remove(str(folder))


def test_it_predicts_from_every_kind_of_body(generated: Any, server: str, cat: bytes) -> None:
    models, types = generated("models"), generated("types")
    route = generated("api.predict.predict")

    def file() -> Any:
        return types.File(io.BytesIO(cat), "cat.jpg", "image/jpeg")

    bodies = [
        models.PredictFilesBody(images=[file()]),
        file(),
        models.PredictJsonBody(images=[base64.b64encode(cat).decode()], top_k=3),
    ]
    for body in bodies:
        with generated("client").Client(server, timeout=200) as client:
            reply = route.sync(client=client, body=body, top_k=3)
        assert isinstance(reply, models.Reply), reply
        (result,) = reply.results
        assert [prediction.label for prediction in result.predictions] == ["Egyptian cat", "tiger cat", "tabby"]


def test_it_reads_every_route_and_a_problem(generated: Any, server: str, cat: bytes) -> None:
    models = generated("models")
    images = [base64.b64encode(cat).decode()]
    with generated("client").Client(server, timeout=200) as client:
        for name in ("attention", "feature_maps", "grad_cam", "explain"):
            route = generated(f"api.explain.{name}")
            body = getattr(models, "".join(map(str.capitalize, name.split("_"))) + "JsonBody")
            (result,) = route.sync(client=client, body=body(images=images)).results
            part = getattr(result, "predictions" if name == "explain" else name)
            assert isinstance(part, (list, models.Attention)), part
            problem = route.sync(client=client, body=body(images=images, model="nothing"))
            assert isinstance(problem, models.Problem)
            assert problem.status == 422
        served = generated("api.models.models").sync(client=client)
        assert served.models[0].name == "lite0"
        assert generated("api.models.model").sync("lite0", client=client).labels[281] == "tabby"
