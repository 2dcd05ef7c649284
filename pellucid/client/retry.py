"""When the same is asked again: where it may be answered then, when the answer says, and not for ever."""

from __future__ import annotations

from typing import Any, Final

import httpx
import tenacity

from pellucid.client.errors import ApiError

_BUSY: Final = (429, 503)
# What a proxy says whose server has gone; the service's own errors of these numbers would come again.
_GATEWAY: Final = (500, 502, 504)
# The connection ended before the answer did. A request changes nothing, so it may be sent twice.
_BROKEN: Final = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)
# Where the answer names no time: seconds, doubled each time, with as much chance.
_BACKOFF: Final = tenacity.wait_random_exponential(multiplier=0.5, max=10)


def policy(retries: int, seconds: float) -> dict[str, Any]:
    """Arguments of tenacity's Retrying: at most ``retries`` more attempts, none that would begin after ``seconds``.

    What the last attempt raised is raised.
    """
    return {
        "retry": tenacity.retry_if_exception(_passes),
        "wait": _wait,
        "stop": tenacity.stop_after_attempt(retries + 1) | tenacity.stop_before_delay(seconds),
        "reraise": True,
    }


def _passes(error: BaseException) -> bool:
    if isinstance(error, ApiError):
        return error.status in _BUSY or (error.status in _GATEWAY and not error.kind)
    return isinstance(error, _BROKEN)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ApiError) and error.retry_after_s is not None:
        return error.retry_after_s
    return _BACKOFF(state)
