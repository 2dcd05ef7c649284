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
from typing import Final, Self

from limits import RateLimitItem, parse_many
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers

from pellucid.errors import RateLimited, Unauthorized, WrongKey

_HASHED: Final = re.compile(r"sha256:([0-9a-f]{64})")
# Keys must be too long to guess: SHA-256 is fast, so it would not protect a password.
_SHORTEST: Final = 20


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
    """The keys and the rate, which all protocols share. It is ``keyed`` if there are keys, ``open`` without both."""

    def __init__(self, keys: Keys, rate: RateLimitItem | None) -> None:
        self.keyed, self.open = bool(keys), not keys and rate is None
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
