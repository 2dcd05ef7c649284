"""Which failures are retried, after how long, and how often."""

from __future__ import annotations

from typing import Any, Final

import httpx
import tenacity

from pellucid.client.errors import ApiError

_BUSY: Final = (429, 503)
# A proxy's errors while its server is gone. The service's own errors with these statuses are not retried.
_GATEWAY: Final = (500, 502, 504)
# The connection broke before the reply was complete. Requests change nothing, so they can be sent twice.
_BROKEN: Final = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)
# Without Retry-After: a random time up to 0.5 s, doubled each time, up to 10 s.
_BACKOFF: Final = tenacity.wait_random_exponential(multiplier=0.5, max=10)


def policy(retries: int, seconds: float) -> dict[str, Any]:
    """Arguments of tenacity's Retrying: at most ``retries`` more attempts, none of which begins after ``seconds``.

    The last attempt's error is raised.
    """
    return {
        "retry": tenacity.retry_if_exception(_is_temporary),
        "wait": _wait,
        "stop": tenacity.stop_after_attempt(retries + 1) | tenacity.stop_before_delay(seconds),
        "reraise": True,
    }


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, ApiError):
        return error.status in _BUSY or (error.status in _GATEWAY and not error.kind)
    return isinstance(error, _BROKEN)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ApiError) and error.retry_after_s is not None:
        return error.retry_after_s
    return _BACKOFF(state)
