"""When the same is asked again: on 429 and 503, after the time that the answer names, and not for ever."""

from __future__ import annotations

from typing import Any, Final

import tenacity

from service.client.errors import ApiError

_BUSY: Final = (429, 503)
# Where the answer names no time: seconds, doubled each time, with as much chance.
_BACKOFF: Final = tenacity.wait_random_exponential(multiplier=0.5, max=10)


def policy(retries: int, seconds: float) -> dict[str, Any]:
    """Arguments of tenacity's Retrying: at most ``retries`` more attempts, none that would begin after ``seconds``.

    What the last attempt raised is raised.
    """
    return {
        "retry": tenacity.retry_if_exception(lambda error: isinstance(error, ApiError) and error.status in _BUSY),
        "wait": _wait,
        "stop": tenacity.stop_after_attempt(retries + 1) | tenacity.stop_before_delay(seconds),
        "reraise": True,
    }


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ApiError) and error.retry_after_s is not None:
        return error.retry_after_s
    return _BACKOFF(state)
