"""What every request gets besides its answer: its id, its timing, its deadline."""

from __future__ import annotations

import re

import httpx
import pytest

from tests.support import ROUTES, post, problem

_ENTRY = re.compile(r'(\w+)(?:;desc="batch of (\d+)")?;dur=(\d+\.\d+)')


@pytest.mark.parametrize("sent", ["order-66", "a.b_c-D", "x" * 64])
def test_a_callers_id_comes_back(client: httpx.Client, cat: bytes, sent: str) -> None:
    response = client.post("/v1/predict", files={"images": cat}, headers={"X-Request-ID": sent})
    assert response.headers["x-request-id"] == sent
    assert response.json()["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "x" * 65, "two words", "<script>", "id;drop", "\xe9", "line\x85end"])
def test_an_id_that_could_harm_a_log_is_replaced(client: httpx.Client, sent: str) -> None:
    given = client.get("/livez", headers={b"X-Request-ID": sent.encode("latin-1")}).headers["x-request-id"]
    assert given != sent
    assert re.fullmatch(r"[0-9a-f]{32}", given)


def test_each_request_gets_an_id_of_its_own(client: httpx.Client) -> None:
    assert len({client.get("/livez").headers["x-request-id"] for _ in range(3)}) == 3


@pytest.mark.parametrize("path", ["/nothing", "/v1/models/none", "/v1/predict"])
def test_a_problem_bears_the_callers_id(client: httpx.Client, path: str) -> None:
    response = client.get(path, headers={"X-Request-ID": "mine"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "mine"


@pytest.mark.parametrize("route", ROUTES)
def test_the_time_of_every_stage_is_told(client: httpx.Client, cat: bytes, route: str) -> None:
    timing = post(client, route, cat).headers["server-timing"]
    entries = {name: (batch, float(took)) for name, batch, took in _ENTRY.findall(timing)}
    assert list(entries) == ["decode", "queue", "infer", "explain", "render"]
    assert entries["infer"][0] == "1"
    assert entries["decode"][1] > 0
    assert entries["infer"][1] > 0


def test_images_of_one_request_share_a_batch(client: httpx.Client, cat: bytes) -> None:
    sizes = [
        int(_ENTRY.findall(post(client, "/v1/predict", *[cat] * 16).headers["server-timing"])[2][1]) for _ in range(3)
    ]
    assert max(sizes) > 1


@pytest.mark.parametrize("route", ROUTES)
def test_a_deadline_that_can_not_be_met_is_told(client: httpx.Client, cat: bytes, route: str) -> None:
    problem(post(client, route, cat, timeout_ms=1), 504, "deadline-exceeded")


def test_a_deadline_may_stand_in_the_json(client: httpx.Client) -> None:
    response = client.post("/v1/predict", json={"images": ["/9j/"], "timeout_ms": 0})
    assert "timeout_ms" in problem(response, 422, "invalid-option").detail


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v1/models", "/docs"])
def test_head_is_answered_wherever_get_is(client: httpx.Client, path: str) -> None:
    response = client.head(path)
    assert response.status_code == 200
    assert response.content == b""


def test_an_option_that_takes_one_value_is_refused_twice(client: httpx.Client, cat: bytes) -> None:
    response = client.post("/v1/attention", params=[("layer", "head"), ("layer", "stem")], files={"images": cat})
    assert "layer is given 2 times" in problem(response, 422, "invalid-option").detail


def test_an_encoded_body_is_refused_by_the_name_of_its_encoding(client: httpx.Client, cat: bytes) -> None:
    headers = {"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}
    response = client.post("/v1/predict", content=cat, headers=headers)
    assert "'gzip'" in problem(response, 415, "unsupported-media-type").detail


def test_a_word_of_a_label_suggests_the_labels_that_have_it(client: httpx.Client, cat: bytes) -> None:
    response = client.post("/v1/grad-cam", params={"target": "cat"}, files={"images": cat})
    assert "'Egyptian cat'" in problem(response, 422, "unknown-name").detail


@pytest.mark.parametrize("target", ["\u00b2", "--5", "9" * 250, "-1", "1000"])
def test_numbers_that_are_no_class_are_refused_as_unknown(client: httpx.Client, cat: bytes, target: str) -> None:
    problem(client.post("/v1/grad-cam", params={"target": target}, files={"images": cat}), 422, "unknown-name")
