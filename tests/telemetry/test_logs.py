"""The access log has one line for each request, and nothing that a client sent."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from service.telemetry import logs
from service.telemetry.logs import JsonLines
from tests.flow.stub import BLACK, POISON, running

PNG = {"Content-Type": "image/png"}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The log of two requests, parsed from JSON lines."""

    async def play() -> None:
        async with running() as stub:
            stub.engine.gate.set()
            files = [("images", ("secret-name.png", data)) for data in (BLACK, POISON)]
            headers = {"X-Request-ID": "abc", "Authorization": "Bearer secret-key"}
            await stub.client.post("/v1/predict?top_k=1", files=files, headers=headers)
            await stub.client.get("/secret-path%0Aforged line")

    caplog.set_level(logging.INFO)
    asyncio.run(play())
    form = JsonLines()
    return [json.loads(form.format(record)) for record in caplog.records if record.name != "httpx"]


def test_each_request_is_logged_as_one_line_of_json(lines: list[dict[str, Any]]) -> None:
    first, second = (line for line in lines if line["logger"] == "pellucid.access")
    assert first.pop("ms") > 0
    assert first.pop("time").endswith("+00:00")
    assert first.pop("message").startswith("request_id=abc method=POST route=/v1/predict status=200 ")
    assert first == {
        "level": "info",
        "logger": "pellucid.access",
        "request_id": "abc",
        "method": "POST",
        "route": "/v1/predict",
        "status": 200,
        "images": 2,
        "model": "stub",
        "problems": ["inference-failed"],
    }
    assert (second["route"], second["status"], second["images"]) == ("other", 404, 0)


def test_of_many_refusals_one_a_second_is_logged_and_all_are_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(logs, "time", SimpleNamespace(monotonic=lambda: now))

    async def play() -> str:
        nonlocal now
        async with running() as stub:
            stub.service.ready = False
            for now in (*[5.0] * 30, 6.5):  # noqa: B007 - the clock of the log
                assert (await stub.client.post("/v1/predict", content=BLACK, headers=PNG)).status_code == 503
            return (await stub.client.get("/metrics")).text

    caplog.set_level(logging.INFO)
    metrics = asyncio.run(play())
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "pellucid.access"]
    assert [line.get("omitted") for line in lines if line["status"] == 503] == [None, 29]
    assert 'pellucid_refused_total{reason="not-ready"} 31.0' in metrics


def test_contents_and_names_of_requests_are_not_logged(lines: list[dict[str, Any]]) -> None:
    assert "secret" not in json.dumps(lines)


def test_a_failure_is_logged_with_its_traceback_in_one_line(lines: list[dict[str, Any]]) -> None:
    (failure,) = (line for line in lines if line["level"] == "error")
    assert "a white picture" in failure["exception"]
