"""Who may call: API keys, kept as hashes, and a rate limit for each."""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import time
from collections.abc import Iterable
from hmac import compare_digest
from pathlib import Path
from typing import Final, Literal, Self

from fastapi.routing import iter_route_contexts
from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from pellucid.errors import NotFound, PellucidError, RateLimited, Unauthorized, WrongKey

from .problem_json import error_response

Access = Literal["open", "key", "off"]

_HASHED: Final = re.compile(r"sha256:([0-9a-f]{64})")
# Keys must be too long to guess: SHA-256 is fast, so it would not protect a password.
_SHORTEST: Final = 20
PROBES: Final = {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
# Prefixes of the rate-limited paths.
LIMITED: Final = ("/v1/", "/v2", "/predictions/", "/explanations/", "/mcp")
_DOCS: Final = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}


def new_key() -> tuple[str, str]:
    """A new key, and its hash for the settings."""
    key = secrets.token_urlsafe(32)
    return key, f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


class Keys:
    """The accepted keys. If there are none, no request needs a key."""

    def __init__(self, entries: Iterable[str]) -> None:
        """``entries`` are keys, or ``sha256:`` and 64 hexadecimal digits. Raises ValueError without the key."""
        self._hashes = [self._hash(number, entry) for number, entry in enumerate(entries, 1)]

    @classmethod
    def of(cls, between_commas: str, file: Path | None) -> Self:
        """The keys of a setting and of a file, which has one a line and comments after ``#``. Raises ValueError."""
        entries = between_commas.split(",")
        if file is not None:
            try:
                entries += [line.partition("#")[0] for line in file.read_text("utf-8").splitlines()]
            except OSError as error:
                raise ValueError(f"{file} can't be read: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise ValueError(f"{file} is no text in UTF-8") from error
        return cls([entry.strip() for entry in entries if entry.strip()])

    def __bool__(self) -> bool:
        return bool(self._hashes)

    @staticmethod
    def _hash(number: int, entry: str) -> bytes:
        if hashed := _HASHED.fullmatch(entry):
            return bytes.fromhex(hashed[1])
        if entry.startswith("sha256:") or len(entry) < _SHORTEST:
            raise ValueError(
                f"API key {number} is neither sha256: and 64 hexadecimal digits nor a key of at least {_SHORTEST} "
                "characters; `pellucid new-key` makes one"
            )
        return hashlib.sha256(entry.encode()).digest()

    def whose(self, headers: Headers) -> str:
        """The name of the client's key in logs and for the rate limit: the beginning of its hash.

        Raises Unauthorized, or WrongKey.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not key:
            raise Unauthorized("Send a key as the header X-API-Key: KEY, or as Authorization: Bearer KEY.")
        sent = hashlib.sha256(key.encode("latin-1")).digest()
        # Compare with each key in constant time, so that the duration reveals nothing about a key.
        if not sum(compare_digest(sent, known) for known in self._hashes):
            raise WrongKey("The key that was sent is not known here.")
        return sent.hex()[:8]


class Gate:
    """The keys and the rate, which all protocols share."""

    def __init__(self, keys: Keys, rate: RateLimitItem | None) -> None:
        self._keys = keys
        self._rate = rate
        self._limiter = MovingWindowRateLimiter(MemoryStorage()) if rate else None

    def enter(self, headers: Headers, address: str, *, key: bool, rate: bool) -> str:
        """The caller: the name of the client's key, or its ``address``. ``key`` and ``rate`` say what is checked.

        Raises Unauthorized, WrongKey and RateLimited.
        """
        caller = self._keys.whose(headers) if self._keys and key else address
        if rate and self._limiter and self._rate and not self._limiter.hit(self._rate, caller):
            free_at = self._limiter.get_window_stats(self._rate, caller).reset_time
            raise _too_often(self._rate, max(1, math.ceil(free_at - time.time())))
        return caller


class AccessControl:
    """Pure ASGI: answers 401 without a valid key, and 429 above the rate, before the body is read.

    Probes and the files of the pages are always open.
    """

    def __init__(self, app: ASGIApp, gate: Gate, docs: Access = "open", metrics: Access = "key") -> None:
        self._app = app
        self._gate = gate
        self._access: dict[str, Access] = {**dict.fromkeys(_DOCS, docs), "/metrics": metrics}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http":
            try:
                self._require(scope)
            except PellucidError as error:
                scope["state"]["call"].problems.append(error.slug)
                scope["route"] = self._route(scope)
                await error_response(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _route(self, scope: Scope) -> BaseRoute | None:
        """The route that a refused request would have reached, for the log and the metrics."""
        found = iter_route_contexts(getattr(scope.get("app", self._app), "routes", ()))
        return next((one.original_route for one in found if one.original_route.matches(scope)[0] != Match.NONE), None)

    def _require(self, scope: Scope) -> None:
        path: str = scope["state"]["path"]
        if path == "/" or path in PROBES or path.startswith("/assets/"):
            return
        access = self._access.get(path, "key")
        if access == "off":
            raise NotFound(f"There is nothing at {path}.")
        address = (scope.get("client") or ("unknown",))[0]
        scope["state"]["caller"] = self._gate.enter(
            Headers(scope=scope), address, key=access == "key", rate=path.startswith(LIMITED)
        )


def _too_often(rate: RateLimitItem, wait_s: int) -> RateLimited:
    """The error for a client above the rate."""
    requests = f"{rate.amount} request{'s' if rate.amount > 1 else ''}"
    unit = rate.GRANULARITY.name
    span = f"each {unit}" if rate.multiples == 1 else f"every {rate.multiples} {unit}s"
    return RateLimited(f"One caller may send {requests} {span}; the next will be accepted in {wait_s} s.", wait_s)


def rate_of(text: str | None) -> RateLimitItem | None:
    """A rate from text such as ``60/minute``. Raises ValueError."""
    if not text:
        return None
    try:
        (rate,) = parse_many(text)
        if rate.amount < 1:
            raise ValueError("no request would be accepted")
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no rate: a number of at least 1, a slash, and second, minute, hour or day, such as 60/minute"
        ) from error
    return rate
