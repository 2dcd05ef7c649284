"""Fair turns: callers who wait are served in turn, however much each of them has sent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# The key or the address of the client whose request runs in this context.
caller: Final = ContextVar("caller", default="")
# Callers whose last turn is remembered. More are looked through for those that can be forgotten.
_KEPT: Final = 1024


class Turns:
    """Numbers pieces of work such that, in the order of their numbers, each caller has one in each round.

    Start-time fair queueing with pieces of equal cost. Not thread-safe.
    """

    def __init__(self) -> None:
        self._now = 0
        self._last: dict[str, int] = {}

    def next(self, who: str) -> int:
        """The round of this caller's next piece of work: the current one, or the one after the caller's last."""
        if len(self._last) > _KEPT:
            self._last = {other: last for other, last in self._last.items() if last >= self._now}
        self._last[who] = turn = max(self._now, self._last.get(who, -1) + 1)
        return turn

    def begin(self, turn: int) -> None:
        """Work of this round begins."""
        self._now = max(self._now, turn)


@dataclass(frozen=True, slots=True)
class _Work:
    future: Future[Any]
    context: Context
    call: Callable[[], Any]

    def __lt__(self, other: object) -> bool:
        raise NotImplementedError  # never called: the number decides


class FairPool(Executor):
    """A pool of threads in which callers take turns. Work runs in the context in which it was submitted.

    The threads do not outlive the process: work that never ends can't keep it from ending.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._lock = threading.Lock()
        self._turns = Turns()
        self._numbers = count()
        self._waiting: list[tuple[int, int, _Work]] = []
        self._closed = False
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._loop, name=f"{name}_{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See concurrent.futures.Executor."""
        future: Future[T] = Future()
        work = _Work(future, copy_context(), partial(fn, *args, **kwargs))
        with self._lock:
            if self._closed:
                raise RuntimeError("The pool is closed.")
            heappush(self._waiting, (self._turns.next(caller.get()), next(self._numbers), work))
        self._wakes.put(None)  # without the lock, which the thread takes at once
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work, and with ``wait`` finish what waits. See concurrent.futures.Executor."""
        with self._lock:
            self._closed = True
            dropped = self._waiting if cancel_futures else []
            self._waiting = [] if cancel_futures else self._waiting
        for *_, work in dropped:
            work.future.cancel()
        for _ in self._threads:
            self._wakes.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _loop(self) -> None:
        while True:
            self._wakes.get()
            if not self._run_next():
                return

    def _run_next(self) -> bool:
        """Run the next work. Returns False if the pool is closed and there is none."""
        with self._lock:
            if not self._waiting:
                return not self._closed
            turn, _, work = heappop(self._waiting)
            self._turns.begin(turn)
            if not self._waiting:
                self._turns = Turns()
        if work.future.set_running_or_notify_cancel():
            try:
                result = work.context.run(work.call)
            except BaseException as error:
                work.future.set_exception(error)
                del work  # the error's traceback holds this frame, and the work holds the error
            else:
                work.future.set_result(result)
        return True
