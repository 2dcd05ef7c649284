"""The batcher chooses which jobs run next, and drops jobs that must not run."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import Future
from contextvars import copy_context

import numpy as np
import pytest

from pellucid.errors import DeadlineExceeded, EngineDown
from pellucid.types import Job, Plan
from service.dispatch.batcher import Batcher
from service.dispatch.turns import FairPool, Turns, caller
from tests.dispatch.echo import until

NOW = time.monotonic()


def job(lane: str = "", submitted: float = NOW, deadline: float = NOW + 3600) -> Job:
    return Job(np.zeros((1, 1, 3), np.uint8), Plan(), lane, deadline, submitted, Future())


def batcher(seconds: float = 0.0) -> Batcher:
    return Batcher(lambda _lane, _size: seconds)


def test_all_waiting_jobs_form_one_batch_up_to_the_limit() -> None:
    queue, jobs = batcher(), [job() for _ in range(6)]
    for one in jobs:
        queue.put(one)
    assert queue.take(lambda: 4) == jobs[:4]
    assert queue.take(lambda: 4) == jobs[4:]


def test_a_limit_lowered_during_the_wait_applies_to_the_next_batch() -> None:
    queue = batcher()
    limit = 4
    taken: list[list[Job]] = []
    taker = threading.Thread(target=lambda: taken.append(queue.take(lambda: limit)), daemon=True)
    taker.start()
    until(lambda: queue._idle == 1)
    with queue._changed:  # the lock, so that the thread sees all jobs at once
        limit = 2
        for _ in range(4):
            queue.put(job())
    taker.join(30)
    assert [len(batch) for batch in taken] == [2]


def test_waiting_threads_share_the_queue_equally() -> None:
    queue = batcher()
    taken: list[list[Job]] = []
    takers = [threading.Thread(target=lambda: taken.append(queue.take(lambda: 8)), daemon=True) for _ in range(2)]
    for taker in takers:
        taker.start()
    for _ in range(3000):
        with queue._changed:  # the lock, so that the threads see all jobs at once
            if queue._idle == 2:
                for _ in range(6):
                    queue.put(job())
                break
        time.sleep(0.01)
    for taker in takers:
        taker.join(30)
    assert [len(batch) for batch in taken] == [3, 3]


def test_lanes_never_share_a_batch_and_the_longest_waiting_goes_first() -> None:
    queue = batcher()
    shallow, deep, late = job("", NOW + 1), job("blocks.4", NOW), job("", NOW + 2)
    for who, one in enumerate((shallow, deep, late)):
        queue.put(one, str(who))
    assert queue.take(lambda: 4) == [deep]
    assert queue.take(lambda: 4) == [shallow, late]


def test_callers_take_turns_within_a_lane_and_between_lanes() -> None:
    queue, many, few, other = batcher(), [job() for _ in range(16)], [job() for _ in range(2)], [job("other")]
    for who, jobs in (("many", many), ("few", few), ("other", other)):
        for one in jobs:
            queue.put(one, who)
    assert queue.take(lambda: 4) == [many[0], few[0], many[1], few[1]]
    assert queue.take(lambda: 4) == other
    for number in (2, 6):
        queue.put(again := job("other"), "other")
        assert queue.take(lambda: 4) == [again]  # before a caller's second batch
        assert queue.take(lambda: 4) == many[number : number + 4]


def test_large_pictures_fill_batches_and_turns_by_their_pixels() -> None:
    queue, large, small = batcher(), [job("@32x16 x8.000", NOW - 1) for _ in range(3)], [job() for _ in range(20)]
    for who, jobs in (("large", large), ("small", small)):
        for one in jobs:
            queue.put(one, who)
    assert queue.take(lambda: 4) == large[:1]  # more than a batch, but one picture
    assert queue.take(lambda: 4) == small[:4]
    large[1].future.cancel()  # its caller leaves between two passes
    assert queue.take(lambda: 4) == small[4:8]
    assert queue.take(lambda: 4) == large[2:]
    assert queue.take(lambda: 16) == small[8:]


def test_callers_take_turns_in_the_pool() -> None:
    begun: list[str] = []
    gate = threading.Event()
    with FairPool(1, "test") as pool:
        pool.submit(gate.wait, 30)
        for who in "aaabac":
            context = copy_context()
            context.run(caller.set, who)
            context.run(pool.submit, lambda: begun.append(caller.get()))
        pool.submit(lambda: begun.append("cancelled")).cancel()
        gate.set()
        with pytest.raises(ZeroDivisionError):
            pool.submit(lambda: 1 // 0).result(30)
    assert "".join(begun) == "abcaaa"
    with pytest.raises(RuntimeError):
        pool.submit(gate.wait)


def test_the_turns_of_callers_who_left_are_forgotten() -> None:
    turns = Turns()
    for number in range(10_000):
        turns.charge(str(number), 1)
        turns.begin(str(number))
    assert len(turns._charged) < 2000


def test_cancelled_work_costs_its_caller_no_turns() -> None:
    queue, others, gone, late = batcher(), [job() for _ in range(4)], [job() for _ in range(100)], job()
    for who, jobs in (("other", others), ("many", gone)):
        for one in jobs:
            queue.put(one, who)
    for one in gone:
        one.future.cancel()
    queue.put(late, "many")
    assert late in queue.take(lambda: 2)

    begun: list[str] = []
    gate = threading.Event()
    with FairPool(1, "test") as pool:
        pool.submit(gate.wait, 30)
        many, other = copy_context(), copy_context()
        many.run(caller.set, "many")
        other.run(caller.set, "other")
        cancelled = [many.run(pool.submit, lambda: begun.append("gone")) for _ in range(100)]
        for waiting in cancelled:
            waiting.cancel()
        for _ in range(4):
            other.run(pool.submit, lambda: begun.append("other"))
        many.run(pool.submit, lambda: begun.append("many"))
        gate.set()
    assert "many" in begun[:2]


def test_a_long_drawing_counts_for_more_than_a_short_one() -> None:
    begun: list[str] = []
    gate = threading.Event()

    def draw(who: str, seconds: float) -> None:
        begun.append(who)
        time.sleep(seconds)

    with FairPool(1, "test") as pool:
        pool.submit(gate.wait, 30)
        for who, seconds in (("long", 0.3), ("long", 0.0), *[("short", 0.0)] * 5):
            context = copy_context()
            context.run(caller.set, who)
            context.run(pool.submit, draw, who, seconds)
        gate.set()
    assert begun == ["long", *["short"] * 5, "long"]


def test_a_cancelled_job_is_not_run() -> None:
    queue, gone, stays = batcher(), job(), job()
    queue.put(gone)
    queue.put(stays)
    gone.future.cancel()
    assert queue.take(lambda: 4) == [stays]


def test_a_job_that_can_not_meet_its_deadline_fails_without_running() -> None:
    queue, fine, hopeless = batcher(seconds=10), job(), job(deadline=time.monotonic() + 5)
    queue.put(fine)
    queue.put(hopeless)
    assert queue.take(lambda: 4) == [fine]
    with pytest.raises(DeadlineExceeded):
        hopeless.future.result(timeout=0)


def test_a_late_job_fails_without_running() -> None:
    queue, late, fine = batcher(), job(deadline=time.monotonic() - 1), job()
    queue.put(late)
    queue.put(fine)
    assert queue.take(lambda: 4) == [fine]
    with pytest.raises(DeadlineExceeded):
        late.future.result(timeout=0)


def test_one_slow_batch_does_not_block_its_lane_for_ever() -> None:
    queue, first = batcher(seconds=10), job(deadline=time.monotonic() + 5)
    queue.put(first)
    assert queue.take(lambda: 4) == [first]  # only running it can correct the forecast


def test_a_closed_batcher_hands_out_waiting_jobs_and_accepts_no_more() -> None:
    queue, waiting = batcher(), job()
    queue.put(waiting)
    queue.close()
    assert not queue.put(job())
    assert queue.take(lambda: 4) == [waiting]
    assert queue.take(lambda: 4) == []


def test_cancelling_a_job_frees_its_pixels_at_once() -> None:
    queue, gone, stays = batcher(), job("blocks.4"), job()
    queue.put(gone)
    queue.put(stays)
    pixels = weakref.ref(gone.pixels)
    future = gone.future
    del gone
    gc.disable()  # the pixels must be freed without the garbage collector
    try:
        future.cancel()
        assert pixels() is None
    finally:
        gc.enable()
    assert len(queue) == 1
    assert queue.take(lambda: 4) == [stays]


def test_all_waiting_jobs_can_be_failed_at_once() -> None:
    queue, jobs = batcher(), [job(), job("blocks.4")]
    for one in jobs:
        queue.put(one)
    queue.fail(lambda: EngineDown("It hangs."))
    assert len(queue) == 0
    errors = [one.future.exception(timeout=0) for one in jobs]
    assert all(isinstance(error, EngineDown) for error in errors)
    assert errors[0] is not errors[1]  # a handler may modify its error


def test_a_closed_batcher_can_be_reopened() -> None:
    queue, waiting = batcher(), job()
    queue.close()
    queue.open()
    assert queue.put(waiting)
    assert queue.take(lambda: 4) == [waiting]


def test_a_spare_thread_takes_only_full_batches_that_the_engine_queues() -> None:
    queue = Batcher(lambda _lane, _size: 0.0, lambda lane: lane == "queues", spare=1)
    waits, goes = [job("waits", NOW) for _ in range(2)], [job("queues", NOW + 1) for _ in range(2)]
    taken: list[list[Job]] = []

    def take() -> None:
        while batch := queue.take(lambda: 2):
            taken.append(batch)

    taker = threading.Thread(target=take, daemon=True)  # the only idle thread, as if all slots were busy
    taker.start()
    queue.put(goes[0])
    queue.put(goes[1])
    until(lambda: taken == [goes])
    last = job("queues", NOW + 2)
    for one in (*waits, last):
        queue.put(one)
    assert len(queue) == 3
    # A slot becomes free, and its thread takes the waiting jobs.
    assert queue.take(lambda: 2) == waits
    assert queue.take(lambda: 2) == [last]
    assert taken == [goes]
    queue.close()
    taker.join(30)
    assert not taker.is_alive()


def test_a_spare_thread_ends_once_a_closed_batcher_is_drained() -> None:
    queue = Batcher(lambda _lane, _size: 0.0, spare=1)
    queue.put(job())
    ended = threading.Thread(target=queue.take, args=(lambda: 4,), daemon=True)
    ended.start()
    until(lambda: queue._idle == 1)
    queue.close()
    assert len(queue) == 1
    assert len(queue.take(lambda: 4)) == 1
    ended.join(30)
    assert not ended.is_alive()


def test_a_full_batch_is_taken_right_after_the_oldest_lane() -> None:
    queue = Batcher(lambda _lane, _size: 0.0, lambda lane: lane == "queues", spare=1)
    old, full = job("old", NOW), [job("queues", NOW + 1) for _ in range(2)]
    taken: list[list[Job]] = []
    spare = threading.Thread(target=lambda: taken.append(queue.take(lambda: 2)), daemon=True)
    spare.start()
    until(lambda: queue._idle == 1)
    for one in (old, *full):
        queue.put(one)
    with queue._changed:
        assert not queue._may_take(lambda: 2)
    assert queue.take(lambda: 2) == [old]
    spare.join(30)
    assert taken == [full]
