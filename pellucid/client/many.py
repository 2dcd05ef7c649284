"""Many pictures, some at a time: in tasks of an event loop, or in threads. The synchronous client has the latter."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar

import httpx

from pellucid.client.errors import ApiError
from pellucid.client.images import ImageSource
from pellucid.schemas import Result

A = TypeVar("A")
B = TypeVar("B")

Progress: TypeAlias = Callable[[int, int], None]
"""Called with the number of pictures that are done, and the number of all."""

# Failures of one picture, as opposed to mistakes of the program.
FAILURES: Final = (ApiError, httpx.HTTPError, OSError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Explained:
    """One picture of many: its result, or why there is none."""

    source: ImageSource = field(repr=False)
    result: Result | None = None
    error: Exception | None = None


class Counter:
    """Counts what is done of ``total``, and reports it, one thread at a time."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done = itertools.count(1)
        self._total = total
        self._progress = progress
        self._lock = threading.Lock()

    def count(self) -> None:
        """One more is done."""
        if self._progress:
            with self._lock:
                self._progress(next(self._done), self._total)


def run(function: Callable[..., B], *arguments: object) -> B:
    """The synchronous client's ``async_run``: a plain call."""
    return function(*arguments)


async def async_run(function: Callable[..., B], *arguments: object) -> B:
    """Call what reads files or encodes pictures, in a thread: the event loop goes on."""
    return await asyncio.to_thread(function, *arguments)


def in_order(function: Callable[[A], B], items: Iterable[A], concurrency: int) -> Generator[B, None, None]:
    """The function's result for each item, in order, computed by ``concurrency`` threads ahead of the caller."""
    rest = iter(items)
    with ThreadPoolExecutor(concurrency, thread_name_prefix="pellucid-client") as pool:
        ahead = deque(pool.submit(function, item) for item in itertools.islice(rest, concurrency))
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(pool.submit(function, item) for item in itertools.islice(rest, 1))
                yield result
        finally:
            for future in ahead:
                future.cancel()


async def async_in_order(
    function: Callable[[A], Awaitable[B]], items: Iterable[A], concurrency: int
) -> AsyncGenerator[B, None]:
    """``in_order`` by tasks of the event loop."""
    rest = iter(items)
    ahead = deque(asyncio.ensure_future(function(item)) for item in itertools.islice(rest, concurrency))
    try:
        while ahead:
            result = await ahead[0]
            ahead.popleft()
            ahead.extend(asyncio.ensure_future(function(item)) for item in itertools.islice(rest, 1))
            yield result
    finally:
        for task in ahead:
            task.cancel()
        await asyncio.gather(*ahead, return_exceptions=True)
