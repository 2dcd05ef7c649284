"""A busy service is asked again, when it says and not for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from pellucid.client import ApiError, AsyncClient, Client
from tests.client.scripted import PREDICTIONS, ask, both, refusal, reply


def answers(*responses: httpx.Response) -> Iterator[httpx.Response]:
    """One for each attempt; another attempt is an error."""
    yield from responses


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client would have waited for."""
    seen: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", seen.append)
    return seen


@both
@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_for_now_is_tried_again(client_type: type[Client] | type[AsyncClient], status: int) -> None:
    coming = answers(refusal(status, **{"Retry-After": "0"}), reply(**PREDICTIONS))
    (prediction,) = ask(client_type, lambda _: next(coming))
    assert prediction.label == "dark"


@both
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_proxy_whose_server_has_gone_is_asked_again(
    client_type: type[Client] | type[AsyncClient], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pellucid.client.retry._BACKOFF", lambda _: 0)
    coming = answers(httpx.Response(status, text="Internal Server Error"), reply(**PREDICTIONS))
    (prediction,) = ask(client_type, lambda _: next(coming))
    assert prediction.label == "dark"


@both
def test_a_connection_that_breaks_is_tried_again_and_one_that_nobody_takes_is_not(
    client_type: type[Client] | type[AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pellucid.client.retry._BACKOFF", lambda _: 0)
    errors: list[Exception] = [httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.WriteError("reset")]
    errors.append(httpx.RemoteProtocolError("disconnected"))

    def respond(_: httpx.Request) -> httpx.Response:
        if errors:
            raise errors.pop()
        return reply(**PREDICTIONS)

    with pytest.raises(httpx.ConnectError):
        ask(client_type, respond)
    (prediction,) = ask(client_type, respond)
    assert prediction.label == "dark"


def test_it_waits_for_as_long_as_it_is_told(waits: list[float]) -> None:
    refusals = [refusal(429, **{"Retry-After": seconds}) for seconds in ("3", "7")]
    coming = answers(*refusals, reply(**PREDICTIONS))
    ask(Client, lambda _: next(coming), timeout_s=60)
    assert waits == [3, 7]


def test_untold_it_waits_longer_each_time(waits: list[float]) -> None:
    coming = answers(refusal(503), refusal(503), refusal(503), reply(**PREDICTIONS))
    ask(Client, lambda _: next(coming))
    assert all(0 <= wait <= most for wait, most in zip(waits, (0.5, 1, 2), strict=True))


def test_it_gives_up_after_so_many_attempts(waits: list[float]) -> None:
    coming = answers(*(refusal(429, **{"Retry-After": "1"}) for _ in range(3)))
    with pytest.raises(ApiError) as caught:
        ask(Client, lambda _: next(coming), retries=2)
    assert caught.value.retry_after_s == 1
    assert waits == [1, 1]
    assert list(coming) == []


@both
def test_it_does_not_wait_for_what_would_come_too_late(client_type: type[Client] | type[AsyncClient]) -> None:
    coming = answers(refusal(429, **{"Retry-After": "3600"}))
    started = time.monotonic()
    with pytest.raises(ApiError):
        ask(client_type, lambda _: next(coming), timeout_s=600)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("status", [400, 422, 500, 504])
def test_what_would_be_refused_again_is_not_asked_again(status: int) -> None:
    coming = answers(refusal(status))
    with pytest.raises(ApiError):
        ask(Client, lambda _: next(coming))


def test_each_attempt_tells_what_time_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    told: list[int] = []
    coming = answers(refusal(503), refusal(503), reply(**PREDICTIONS))

    def respond(request: httpx.Request) -> httpx.Response:
        told.append(int(request.url.params["timeout_ms"]))
        spent = time.monotonic() + 0.002
        while time.monotonic() < spent:
            pass
        return next(coming)

    ask(Client, respond, timeout_s=60)
    assert 60_000 >= told[0] > told[1] > told[2]
