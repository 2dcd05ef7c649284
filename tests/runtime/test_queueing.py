"""How long a pass is queued."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from pellucid.runtime.queueing import SlotQueue


def test_a_pass_with_a_free_slot_does_not_wait() -> None:
    queue = SlotQueue(2)
    with queue.occupy(), queue.occupy() as second:
        pass
    assert second.waited_s == 0


def test_a_queued_pass_starts_when_the_first_slot_becomes_free() -> None:
    queue = SlotQueue(2)
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(queue.occupy())
        second.enter_context(queue.occupy())
        with queue.occupy() as ahead:
            assert ahead.waited_s == 0
            second.close()
            waited = ahead.waited_s
            assert waited > 0
            first.close()
            assert ahead.waited_s == waited
        with queue.occupy() as later:
            pass
        assert later.waited_s == 0


def test_a_queued_pass_that_fails_leaves_the_queue() -> None:
    queue = SlotQueue(1)
    with queue.occupy():
        with pytest.raises(RuntimeError, match="too early"), queue.occupy():
            raise RuntimeError("too early")
        with queue.occupy() as ahead:
            pass
        assert ahead.waited_s == 0
