"""Images come in three kinds of body, and the kind makes no difference to the answer."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Any

import httpx
import pytest

from pellucid.schemas import Failure, Result
from tests.support import ROUTES, difference, envelope, explained, post, problem


def _results(response: httpx.Response) -> Any:
    """A reply's results without the images' names, which not every kind of body can give."""
    envelope(response)
    results = response.json()["results"]
    for result in results:
        del result["image"]["filename"]
    return results


@pytest.mark.parametrize("route", ROUTES)
def test_three_kinds_of_body_give_equal_answers(client: httpx.Client, cat: bytes, route: str) -> None:
    multipart = _results(post(client, route, cat))
    raw = client.post(route, content=cat, headers={"Content-Type": "image/jpeg"})
    in_json = client.post(route, json={"images": [{"data": b64encode(cat).decode()}]})
    assert difference(_results(raw), multipart) is None
    assert difference(_results(in_json), multipart) is None


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_json_takes_base64_alone_and_data_urls(client: httpx.Client, cat: bytes, prefix: str) -> None:
    response = client.post("/v1/predict", json={"images": [prefix + b64encode(cat).decode()]})
    assert difference(_results(response), _results(post(client, "/v1/predict", cat))) is None


def test_options_in_json_win_over_the_query(client: httpx.Client, cat: bytes) -> None:
    body = {"images": [b64encode(cat).decode()], "top_k": 2}
    (result,) = envelope(client.post("/v1/predict?top_k=7", json=body)).results
    assert isinstance(result, Result)
    assert result.predictions is not None
    assert len(result.predictions) == 2


def test_a_target_in_json_may_be_a_number(client: httpx.Client, cat: bytes) -> None:
    body = {"images": [b64encode(cat).decode()], "target": 281}
    (result,) = envelope(client.post("/v1/grad-cam", json=body)).results
    assert isinstance(result, Result)
    assert result.grad_cam is not None
    assert result.grad_cam[0].target.label == "tabby"


@pytest.mark.parametrize("content_type", ["application/octet-stream", "image/*", "IMAGE/PNG", "image/jpeg; q=1"])
def test_bytes_are_what_they_are_not_what_they_are_called(client: httpx.Client, cat: bytes, content_type: str) -> None:
    (result,) = envelope(client.post("/v1/predict", content=cat, headers={"Content-Type": content_type})).results
    assert result.image.format == "JPEG"


def test_each_result_says_which_image_it_is_of(client: httpx.Client, cat: bytes) -> None:
    image = explained(client, "/v1/predict", cat).image
    assert (image.filename, image.format, image.width, image.height) == ("0.jpg", "JPEG", 451, 300)
    assert image.sha256 == hashlib.sha256(cat).hexdigest()


def test_several_images_are_answered_in_the_order_sent(
    client: httpx.Client, cat: bytes, coffee: bytes, rocket: bytes
) -> None:
    sent = [rocket, cat, coffee, cat]
    results = envelope(post(client, "/v1/predict", *sent)).results
    assert [result.image.sha256 for result in results] == [hashlib.sha256(data).hexdigest() for data in sent]
    assert [result.image.filename for result in results] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize("route", ROUTES)
def test_an_image_is_answered_the_same_alone_and_among_others(
    client: httpx.Client, cat: bytes, coffee: bytes, rocket: bytes, route: str
) -> None:
    # A channel's effect is a gradient through ReLUs, which jumps with a rounding: with provenance no bit may differ.
    options: dict[str, Any] = {"provenance": True} if route == "/v1/attention" else {}
    together = _results(post(client, route, cat, coffee, rocket, **options))
    alone = [_results(post(client, route, data, **options))[0] for data in (cat, coffee, rocket)]
    assert difference(together, alone) is None


def test_a_bad_image_among_good_ones_fails_by_itself(client: httpx.Client, cat: bytes, coffee: bytes) -> None:
    reply = envelope(post(client, "/v1/explain", cat, b"no image at all", coffee[:5000], coffee))
    first, text, torn, last = reply.results
    assert isinstance(first, Result)
    assert isinstance(last, Result)
    assert isinstance(text, Failure)
    assert isinstance(torn, Failure)
    assert text.error.status == 415
    assert torn.error.status == 422
    assert text.error.request_id == torn.error.request_id == reply.request_id
    assert text.image.filename == "1.jpg"
    assert text.image.sha256 == hashlib.sha256(b"no image at all").hexdigest()
    assert text.image.format is None


def test_a_bad_image_alone_is_the_whole_problem(client: httpx.Client) -> None:
    problem(post(client, "/v1/explain", b"no image at all"), 415, "unsupported-media-type")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", "images"),
        (b"{}", "images"),
        (b'{"images": []}', "images"),
        (b'{"images": ["?"]}', "images[0].data"),
        (b'{"images": [""]}', "empty"),
    ],
)
def test_json_that_holds_no_image_is_malformed(client: httpx.Client, body: bytes, said: str) -> None:
    response = client.post("/v1/predict", content=body, headers={"Content-Type": "application/json"})
    assert said in problem(response, 400, "malformed-request").detail


def test_a_wrong_image_in_json_is_named_by_its_place(client: httpx.Client) -> None:
    response = client.post("/v1/predict", json={"images": ["/9j/", {"date": ""}]})
    detail = problem(response, 400, "malformed-request").detail
    assert "images[1]" in detail
    assert "URLs are never fetched" in detail


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"image": b"x"}, "'image'"),
        ({"images": ("empty.jpg", b"")}, "empty"),
    ],
)
def test_multipart_without_an_image_is_malformed(client: httpx.Client, files: Any, said: str) -> None:
    assert said in problem(client.post("/v1/predict", files=files), 400, "malformed-request").detail


def test_options_in_multipart_fields_are_refused_with_where_they_go(client: httpx.Client, cat: bytes) -> None:
    response = client.post("/v1/predict", files={"images": cat}, data={"top_k": "3"})
    detail = problem(response, 400, "malformed-request").detail
    assert "'top_k'" in detail
    assert "query" in detail


def test_a_multipart_body_that_breaks_off_is_malformed(client: httpx.Client) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    torn = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\nabc'
    problem(client.post("/v1/predict", content=torn, headers=headers), 400, "malformed-request")


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", ""])
def test_other_kinds_of_body_are_refused_with_the_allowed_ones(client: httpx.Client, content_type: str) -> None:
    response = client.post("/v1/predict", content=b"hello", headers={"Content-Type": content_type})
    allowed = problem(response, 415, "unsupported-media-type").allowed
    assert allowed is not None
    assert {"multipart/form-data", "image/*", "application/json"} <= set(allowed)
