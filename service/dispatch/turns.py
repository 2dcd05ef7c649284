"""Fair turns: callers who wait are served in turn, however much each of them has sent."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from queue import SimpleQueue
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# The key or the address of the client whose request runs in this context.
caller: Final = ContextVar("caller", default="")
# Callers whose charges are remembered. More are looked through for those that can be forgotten.
_KEPT: Final = 1024
# Weight of a piece of work's seconds in the moving average.
_SHARE: Final = 0.05


class Turns:
    """Says whose work goes next, such that callers who wait get equal shares of the cost.

    Start-time fair queueing. A caller is charged for work when it is taken, so cancelled work costs nothing. Not
    thread-safe.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._charged: dict[str, float] = {}

    def next(self, who: str) -> float:
        """The turn of this caller's next work: the current one, or the end of what the caller was charged for."""
        return max(self._now, self._charged.get(who, 0.0))

    def begin(self, who: str) -> None:
        """The turn of this caller's next work becomes the current one."""
        self._now = self.next(who)

    def charge(self, who: str, cost: float) -> None:
        """Charge a caller for work that was taken."""
        if len(self._charged) > _KEPT:
            self._charged = {other: end for other, end in self._charged.items() if end > self._now}
        self._charged[who] = self.next(who) + cost


@dataclass(frozen=True, slots=True)
class _Work:
    future: Future[Any]
    context: Context
    call: Callable[[], Any]
    number: int


class FairPool(Executor):
    """A pool of threads, of whose seconds callers who wait get equal shares.

    Work runs in the context in which it was submitted.

    The threads do not outlive the process: work that never ends can't keep it from ending.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._lock = threading.Lock()
        self._turns = Turns()
        self._numbers = count()
        self._waiting: dict[str, deque[_Work]] = {}
        self._usual_s = 0.0
        self._closed = False
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._loop, name=f"{name}_{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        context, call = copy_context(), partial(fn, *args, **kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError("The pool is closed.")
            work = _Work(future, context, call, next(self._numbers))
            self._waiting.setdefault(caller.get(), deque()).append(work)
        self._wakes.put(None)  # without the lock, which the thread takes at once
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work, and with ``wait`` finish what waits. See concurrent.futures.Executor."""
        with self._lock:
            self._closed = True
            dropped = [*chain(*self._waiting.values())] if cancel_futures else []
            self._waiting = {} if cancel_futures else self._waiting
        for work in dropped:
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
            who = min(self._waiting, key=lambda who: (self._turns.next(who), self._waiting[who][0].number))
            work, turns, usual_s = self._waiting[who].popleft(), self._turns, self._usual_s
            runs = work.future.set_running_or_notify_cancel()
            if runs:
                turns.begin(who)
                turns.charge(who, usual_s)  # until its own seconds are known
            if not self._waiting[who]:
                del self._waiting[who]
            if not self._waiting:
                self._turns = Turns()
        if runs:
            started = time.perf_counter()
            try:
                result = work.context.run(work.call)
            except BaseException as error:
                self._charge(turns, who, time.perf_counter() - started, usual_s)
                work.future.set_exception(error)
                del work  # the error's traceback holds this frame, and the work holds the error
            else:
                self._charge(turns, who, time.perf_counter() - started, usual_s)
                work.future.set_result(result)
        return True

    def _charge(self, turns: Turns, who: str, seconds: float, charged_s: float) -> None:
        """Charge a caller for the seconds of a piece of work, less what was charged."""
        with self._lock:
            turns.charge(who, seconds - charged_s)
            self._usual_s += _SHARE * (seconds - self._usual_s)
