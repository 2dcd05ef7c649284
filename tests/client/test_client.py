"""The client: typed replies for whatever an image is at hand as, and errors in the service's words."""

from __future__ import annotations

import asyncio
import inspect
import io
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pellucid.client import ApiError, AsyncClient, Client, calls
from pellucid.schemas import Result
from tests.client.generate import CLIENT, GENERATED
from tests.client.scripted import PREDICTIONS, ask, both, refusal, reply
from tests.support import REPOSITORY, SAMPLES, decoded, problem


def test_importing_it_loads_no_network_and_no_arrays() -> None:
    heavy = ("torch", "openvino", "numpy", "fastapi", "PIL")
    code = f"import sys, pellucid.client; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_fresh(name: str) -> None:
    assert (CLIENT / name).read_text("utf-8") == GENERATED[name](), "run `make client`"


def test_no_image_is_read_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever method of the asynchronous client takes it: each fails here, once it has read its image."""
    threads: list[int] = []

    def noting(source: object) -> tuple[str, bytes]:
        threads.append(threading.get_ident())
        return "image", b""

    monkeypatch.setattr(calls, "read", noting)

    async def run() -> list[str]:
        async with AsyncClient("http://stub", transport=httpx.MockTransport(lambda _: refusal(422))) as client:
            asked = []
            for name, method in inspect.getmembers(client, inspect.ismethod):
                taken = inspect.signature(method).parameters
                if "image" in taken and not name.startswith("_"):
                    route = {"route": "attention"} if "route" in taken else {}
                    with pytest.raises(ApiError):
                        await method(image=b"", **route)
                    asked.append(name)
            async for each in client.explain_many([b""]):
                assert isinstance(each.error, ApiError)
            return asked

    asked = asyncio.run(run())
    assert {"predict", "compare", "heat_maps", "picture", "reply"} <= {*asked}
    assert len(threads) == len(asked) + 1
    assert threading.get_ident() not in threads


def test_an_image_may_be_a_path_its_bytes_a_picture_or_an_array(server: str, cat: bytes) -> None:
    path = SAMPLES / "cat.jpg"
    picture = Image.open(io.BytesIO(cat)).convert("RGB")
    with Client(server, timeout_s=200) as client:
        exact = [client.predict(image, top_k=3) for image in (path, str(path), cat)]
        assert exact[0] == exact[1] == exact[2]
        # Pillow decodes a JPEG a level away from the service's decoder
        near = [client.predict(image, top_k=3) for image in (picture, np.asarray(picture))]
    assert near[0] == near[1]
    assert [p.label for p in near[0]] == [p.label for p in exact[0]]
    assert near[0][0].probability == pytest.approx(exact[0][0].probability, abs=0.05)


def test_what_is_no_image_says_what_is_one() -> None:
    told = "a path, bytes, a file, a PIL image or an array, not list"
    with Client() as client, pytest.raises(TypeError, match=told):
        client.predict([1, 2])  # type: ignore[arg-type]


@both
@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((8, 9, 3), complex), r"not complex128 \[8, 9, 3\]$"),
        (np.zeros((8, 9, 3), bool), r"not bool \[8, 9, 3\]$"),
        (np.full((8, 9), None), r"not object \[8, 9\]$"),
        (np.zeros((1, 8, 9, 3), np.uint8), r"not uint8 \[1, 8, 9, 3\]: pass the pictures of a batch one by one"),
        (np.zeros(8, np.uint8), r"not uint8 \[8\]$"),
        (np.zeros((0, 9, 3), np.uint8), r"not uint8 \[0, 9, 3\]$"),
    ],
)
def test_an_array_that_is_no_image_says_which_arrays_are(
    client_type: type[Client] | type[AsyncClient], array: Any, told: str
) -> None:
    allowed = r"\[height, width, channels\], \[channels, height, width\] or \[height, width\]"
    with pytest.raises(ValueError, match=f"^an array must have numbers and the shape {allowed}, {told}"):
        ask(client_type, lambda _: reply(**PREDICTIONS), image=array)


def test_every_route_has_its_typed_answer(server: str, cat: bytes) -> None:
    with Client(server, timeout_s=200) as client:
        everything = client.explain(cat, target=["tabby", "tiger cat"], overlay=True, count=4, tile=28)
        assert isinstance(everything, Result)
        assert client.predict(cat) == everything.predictions
        assert client.attention(cat, effects=False).gates[0].layer == "blocks.0.gate"
        (maps,) = client.feature_maps(cat, layers=["head"], channels=[1, 2], tile=28)
        assert maps.channels == [1, 2]
        cams = client.grad_cam(cat, target=["tabby", "tiger cat"], overlay=True)
        assert [cam.target.label for cam in cams] == ["tabby", "tiger cat"]
        changed = client.what_if(cat, mute=[3], layer="blocks.0", target="tabby")
        assert [each.before.label for each in changed.targets] == ["tabby"]
        assert client.compare(cat, target=["tabby", "lynx"], max_side=8).second.target.label == "lynx"
        default = next(model for model in client.models() if model.default)
        assert client.model(default.name).labels[281] == "tabby"
        plot = client.picture("attention", cat, effects=False)
    assert plot.to_pil().format == "PNG"
    mask = cams[0].mask
    assert np.array_equal(np.asarray(mask.to_pil()), decoded(mask))


@both
def test_the_key_and_the_time_that_is_waited_are_sent(client_type: type[Client] | type[AsyncClient]) -> None:
    seen: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return reply(**PREDICTIONS)

    (prediction,) = ask(client_type, respond, api_key="secret", timeout_s=7)
    assert prediction.label == "dark"
    assert seen[0].headers["authorization"] == "Bearer secret"
    told = int(seen[0].url.params["timeout_ms"])
    assert 6000 < told <= 7000
    assert seen[0].extensions["timeout"]["read"] > told / 1000  # what the service says of being late is waited for
    assert seen[0].url.params["top_k"] == "1"


@both
def test_a_problem_is_an_error_in_the_services_words(client_type: type[Client] | type[AsyncClient]) -> None:
    with pytest.raises(ApiError, match=r"No\. Not so\. \(status 422, request r1\)") as caught:
        ask(client_type, lambda _: refusal(422))
    error = caught.value
    assert (error.status, error.kind, error.title, error.detail) == (422, "some-kind", "No", "Not so.")
    assert (error.request_id, error.allowed) == ("r1", ["so"])


def test_a_page_of_a_proxy_is_an_error_too() -> None:
    with pytest.raises(ApiError, match=r"Bad Gateway\. stub answered with text/html") as caught:
        ask(Client, lambda _: httpx.Response(502, html="<h1>Bad Gateway</h1>"), retries=0)
    assert (caught.value.status, caught.value.kind) == (502, "")


def test_an_answer_of_something_else_is_an_error_too() -> None:
    with pytest.raises(ApiError, match=r"Not an answer of this service\. stub answered with text/html"):
        ask(Client, lambda _: httpx.Response(200, html="<h1>Welcome</h1>"))


def test_a_real_problem_is_the_same_to_the_client(
    server: str, client: httpx.Client, cat: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "cat.jpg"
    file.write_bytes(cat)
    with Client(server) as pellucid, pytest.raises(ApiError) as caught:
        pellucid.grad_cam(file, layer="haed")
    response = client.post("/v1/grad-cam", params={"layer": "haed"}, files={"images": cat})
    expected = problem(response, 422, "unknown-name").model_dump(exclude={"request_id"})
    assert caught.value.problem.model_dump(exclude={"request_id"}) == expected
    assert caught.value.kind == "unknown-name"


def test_what_a_newer_service_adds_is_no_error() -> None:
    (prediction,) = ask(Client, lambda _: reply(**PREDICTIONS, new_part={"some": "thing"}))
    assert prediction.index == 0


@pytest.mark.parametrize("client_type", [Client, AsyncClient])
@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost", "ftp://host", ""])
def test_a_url_without_a_scheme_is_refused_at_once(client_type: type[Client] | type[AsyncClient], url: str) -> None:
    with pytest.raises(
        ValueError, match=r"must begin with http:// or https://, such as http://127\.0\.0\.1:8000, not "
    ):
        client_type(url)


def test_where_nobody_answers_it_says_so(server: str) -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(httpx.ConnectError):
        client.models()
