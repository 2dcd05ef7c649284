"""Replies that were given already, by what they are of: content, network, and what was asked.

Nothing of who asked is in a key or an entry: a caller learns from another's entry what it would have computed itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import orjson
from cachetools import LRUCache
from starlette.requests import Request

from service.api.plan import Look
from service.api.reply import Entry
from service.errors import AlreadyKnown
from service.types import Plan, Prepared, Upload

# Of an entry besides its content: the key, the objects, and their places in the tables.
_OVERHEAD: Final = 1024


class ReplyCache:
    """Entries by key, at most ``limit`` bytes, those out first that were not asked for the longest. For one event loop.

    ``count`` is told of each image whether it was a "hit", a "miss", or "shared" with the same one in flight.
    """

    def __init__(self, limit: int, count: Callable[[str], None] = lambda result: None) -> None:
        self._held: LRUCache[str, Entry] = LRUCache(limit, _size)
        self._running: dict[str, asyncio.Future[Entry | None]] = {}
        self._count = count

    @property
    def size(self) -> float:
        """Bytes that are held."""
        return self._held.currsize

    def __contains__(self, key: str) -> bool:
        """Whether it can be answered without being computed."""
        return key in self._held

    async def entry(self, key: str, compute: Callable[[], Awaitable[Entry]]) -> Entry:
        """The entry for ``key``: held, or computed, at once for all who ask meanwhile. What ``compute`` raises is kept
        for nobody: who waited for it computes for itself, since its deadline or its place in the queue is another.
        """
        held = self._held.get(key)
        if held is not None:
            self._count("hit")
            return held
        if key in self._running:
            shared = await asyncio.shield(self._running[key])
            if shared is not None:
                self._count("shared")
                return shared
        self._count("miss")
        if key in self._running:
            return await compute()
        running = self._running[key] = asyncio.get_running_loop().create_future()
        found: Entry | None = None
        try:
            found = await compute()
            if _size(found) <= self._held.maxsize:
                self._held[key] = found
            return found
        finally:
            del self._running[key]
            running.set_result(found)


@dataclass(frozen=True, slots=True)
class Keep:
    """How the entries of one request are kept: ``asked`` is all that they follow from besides the picture.

    ``known`` is the request's If-None-Match.
    """

    cache: ReplyCache
    asked: bytes
    known: str

    @classmethod
    def of(cls, cache: ReplyCache, request: Request, network: str, plan: Plan, look: Look, form: str) -> Keep:
        """``network`` is ``Pipeline.identity``, ``form`` the media type of the reply."""
        asked = orjson.dumps((network, plan, look, form), default=sorted, option=orjson.OPT_SORT_KEYS)
        return cls(cache, asked, ", ".join(request.headers.getlist("if-none-match")))

    async def keys(self, images: Sequence[Upload | Prepared]) -> list[str]:
        """Each image's key. Raises AlreadyKnown where the caller has the reply that these make."""
        found = await asyncio.to_thread(self._keys, images)
        if self.known and named(self.known, tag(found)):
            raise AlreadyKnown("If-None-Match names the reply to this request: yours is up to date.", tag(found))
        return found

    def _keys(self, images: Sequence[Upload | Prepared]) -> list[str]:
        data = [image.data if isinstance(image, Upload) else image.pixels.tobytes() for image in images]
        return [hashlib.sha256(hashlib.sha256(each).digest() + self.asked).hexdigest() for each in data]

    async def entry(self, key: str, image: Upload | Prepared, compute: Callable[[], Awaitable[Entry]]) -> Entry:
        """The image's entry, under the name that this request's sender gave it."""
        found = await self.cache.entry(key, compute)
        return found.sent_as(image.filename if isinstance(image, Upload) else None)

    @staticmethod
    def headers(keys: Sequence[str], missing: Sequence[str]) -> dict[str, str]:
        """The reply's ETag, and, as RFC 9211 has it, whether it was there."""
        return {"ETag": tag(keys), "Cache-Status": f"pellucid; {'fwd=miss' if missing else 'hit'}"}


def tag(found: Sequence[str]) -> str:
    """The ETag of a reply of these keys. Weak (RFC 9110, 8.8.1): each reply has its own request id."""
    return f'W/"{hashlib.sha256("".join(found).encode()).hexdigest()[:32]}"'


def named(if_none_match: str, current: str) -> bool:
    """Whether an If-None-Match names the tag, compared weakly, as RFC 9110 (13.1.2) has it.

    A ``*`` names none: there is no representation of its own behind a POST that could be there or not.
    """
    return current.removeprefix("W/") in (each.strip().removeprefix("W/") for each in if_none_match.split(","))


def _size(entry: Entry) -> int:
    return len(entry.content) + _OVERHEAD
