"""Who may call and how often, from which pages, and what a browser is told."""

from __future__ import annotations

import asyncio
import logging
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http.access import Keys, new_key
from tests.flow.stub import BLACK, Stub, running
from tests.support import envelope, problem

KEY, ENTRY = new_key()
OTHER = "another-key-that-is-long-enough"


def _ask(*requests: dict[str, Any], **settings: Any) -> Sequence[httpx.Response]:
    """The responses of an app with the settings; without a path, those to a picture."""

    async def scene() -> list[httpx.Response]:
        async with running(**settings) as stub:
            stub.engine.gate.set()
            return [await _send(stub, **request) for request in requests]

    return asyncio.run(scene())


async def _send(stub: Stub, path: str | None = None, method: str = "GET", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-").encode(): value.encode("latin-1") for name, value in headers.items()}
    if path is None:
        picture = {b"Content-Type": b"image/png", **named}
        return await stub.client.post("/v1/predict", content=BLACK, headers=picture)
    return await stub.client.request(method, path, headers=named)


def test_without_keys_everybody_is_let_in() -> None:
    envelope(*_ask({}))


@pytest.mark.parametrize("settings", [{"api_keys": f"{ENTRY},{OTHER}"}, {"api_keys": f"{OTHER}, {KEY}"}])
@pytest.mark.parametrize("key", [KEY, OTHER], ids=["new", "other"])
def test_each_of_several_keys_opens_in_both_ways(settings: dict[str, Any], key: str) -> None:
    for response in _ask({"Authorization": f"Bearer {key}"}, {"X_API_Key": key}, **settings):
        envelope(response)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY}x"},
        {"X_API_Key": KEY[:-1]},
        {"X_API_Key": ENTRY},
        {"X_API_Key": "\xff"},
    ],
)
def test_without_a_known_key_nothing_is_answered(headers: dict[str, str]) -> None:
    sent = "X_API_Key" in headers or headers.get("Authorization", "").startswith("Bearer ")
    kind, title = ("wrong-key", "The key is wrong") if sent else ("unauthorized", "A key is needed")
    for response in _ask(headers, {"path": "/v1/models", **headers}, api_keys=ENTRY):
        assert problem(response, 401, kind).title == title
        assert response.headers["www-authenticate"] == 'Bearer realm="pellucid"'


def test_a_file_may_hold_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the shop\n{ENTRY}  # until May\n\n{OTHER}\n")
    refused, *taken = _ask({}, {"X_API_Key": KEY}, {"X_API_Key": OTHER}, api_keys_file=file)
    problem(refused, 401, "unauthorized")
    for response in taken:
        envelope(response)


@pytest.mark.parametrize("wrong", ["short", "sha256:beef", "sha256:" + "x" * 64])
def test_a_key_that_can_be_guessed_stops_the_start_and_is_not_told(wrong: str) -> None:
    with pytest.raises(ValueError, match="API key 2") as refused:
        Keys.of(f"{KEY},{wrong}", None)
    assert wrong not in str(refused.value)
    assert KEY not in str(refused.value)


def test_keys_are_kept_as_hashes_alone() -> None:
    assert KEY not in repr(vars(Keys([KEY])))


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready"])
def test_the_probes_need_no_key(path: str) -> None:
    (response,) = _ask({"path": path}, api_keys=ENTRY)
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_the_docs_are_open_or_need_a_key_or_are_not_there(path: str) -> None:
    page = {"path": path}
    with_key = {**page, "X_API_Key": KEY}
    asked = [(_ask(page, with_key, api_keys=ENTRY, docs=docs)) for docs in ("open", "key", "off")]
    assert [[response.status_code for response in pair] for pair in asked] == [[200, 200], [401, 200], [404, 404]]


def test_the_metrics_need_a_key_where_there_are_any() -> None:
    page = {"path": "/metrics"}
    statuses = [_ask(page, api_keys=ENTRY, metrics=metrics)[0].status_code for metrics in ("key", "off")]
    assert statuses == [401, 404]


def test_a_key_is_let_in_so_often_and_others_are_not_kept_out() -> None:
    mine, others = {"X_API_Key": KEY}, {"X_API_Key": OTHER}
    first, second, refused, other = _ask(mine, mine, mine, others, api_keys=f"{KEY},{OTHER}", rate_limit="2/minute")
    for response in (first, second, other):
        envelope(response)
    wait_s = int(refused.headers["retry-after"])
    assert 1 <= wait_s <= 60
    told = f"One caller may send 2 requests each minute; the next will be accepted in {wait_s} s."
    assert problem(refused, 429, "rate-limited").detail == told


def test_without_keys_the_rate_is_an_addresses() -> None:
    taken, refused, probe = _ask({}, {}, {"path": "/livez"}, rate_limit="1/hour")
    envelope(taken)
    problem(refused, 429, "rate-limited")
    assert probe.status_code == 200


def test_a_rate_that_can_not_be_read_stops_the_start() -> None:
    with pytest.raises(ValueError, match="is no rate: a number"):
        _ask({}, rate_limit="often")


def test_the_api_document_says_where_a_key_or_a_rate_can_refuse() -> None:
    (document,) = _ask({"path": "/openapi.json"}, api_keys=ENTRY)
    for path, methods in document.json()["paths"].items():
        for operation in methods.values():
            stated = {"401", "429"} <= {*operation["responses"]}
            assert stated is not path.startswith(("/livez", "/readyz", "/metrics", "/v2/health")), path


ORIGIN = "https://shop.example"


def test_no_other_page_may_call_unless_it_is_named() -> None:
    preflight = {"path": "/v1/predict", "method": "OPTIONS", "Origin": ORIGIN, "Access_Control_Request_Method": "POST"}
    for response in _ask(preflight, {"Origin": ORIGIN}):
        assert not [name for name in response.headers if name.startswith("access-control")]
    named = _ask(preflight, {"Origin": ORIGIN}, {"Origin": "https://other.example"}, cors_origins=ORIGIN)
    allowed = [response.headers.get("access-control-allow-origin") for response in named]
    assert allowed == [ORIGIN, ORIGIN, None]
    assert "X-Request-ID" in named[1].headers["access-control-expose-headers"]


def test_a_page_may_ask_and_be_refused_in_words_where_a_key_is_needed() -> None:
    preflight = {"path": "/v1/predict", "method": "OPTIONS", "Origin": ORIGIN, "Access_Control_Request_Method": "POST"}
    asked, refused = _ask(preflight, {"Origin": ORIGIN}, cors_origins=ORIGIN, api_keys=ENTRY)
    assert asked.status_code == 200
    problem(refused, 401, "unauthorized")
    assert refused.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_may_load_our_own_files_and_run_its_own_scripts_alone(path: str) -> None:
    (page,) = _ask({"path": path})
    policy = dict(entry.strip().split(" ", 1) for entry in page.headers["content-security-policy"].split(";"))
    scripts = {b64encode(sha256(found.encode()).digest()).decode() for found in _inline(page.text)}
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert set(policy["script-src"].split()) == {"'self'", *(f"'sha256-{digest}'" for digest in scripts)}
    assert not re.search(r"https?:", page.headers["content-security-policy"])


def _inline(page: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


PATHS = ("/", "/assets/playground/colormaps.json", "/assets/docs/swagger-ui.css", "/docs", "/nothing", "/openapi.json")


@pytest.mark.parametrize("request_", [{}, *({"path": path} for path in PATHS)])
def test_every_reply_is_to_be_taken_for_what_it_says_it_is(request_: dict[str, Any]) -> None:
    _states_what_it_is(*_ask(request_))


def test_the_reply_to_a_failure_inside_the_service_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("service.flow.one_pass.decode", broken)
    (response,) = _ask({})
    problem(response, 500, "internal-error")
    _states_what_it_is(response)


def _states_what_it_is(response: httpx.Response) -> None:
    """Each header once: two of a kind are read differently by different browsers."""
    assert response.headers.get_list("x-content-type-options") == ["nosniff"]
    assert response.headers.get_list("x-frame-options") == ["DENY"]
    assert response.headers.get_list("referrer-policy") == ["no-referrer"]
    (policy,) = response.headers.get_list("content-security-policy")
    assert "'unsafe-eval'" not in policy


def test_neither_keys_nor_bodies_nor_queries_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def scene(stub: Stub) -> None:
        for headers in ({"X-API-Key": KEY}, {"Authorization": f"Bearer {OTHER}"}):
            body = {"images": [b64encode(BLACK).decode()]}
            await stub.client.post("/v1/predict?model=secret-query", json=body, headers=headers)

    _play(scene, api_keys=ENTRY)
    ours = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("http"))
    assert "/v1/predict" in ours
    for secret in (KEY, OTHER, "secret-query", b64encode(BLACK).decode()):
        assert secret not in ours


def _play(scene: Callable[[Stub], Awaitable[None]], **settings: Any) -> None:
    async def play() -> None:
        async with running(**settings) as stub:
            stub.engine.gate.set()
            await scene(stub)

    asyncio.run(play())
