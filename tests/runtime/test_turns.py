"""How long a pass is queued."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from pellucid.runtime.turns import Turns


def test_a_pass_with_a_free_slot_does_not_wait() -> None:
    turns = Turns(2)
    with turns.turn(), turns.turn() as second:
        pass
    assert second.waited_s == 0


def test_a_queued_pass_starts_when_the_first_slot_becomes_free() -> None:
    turns = Turns(2)
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(turns.turn())
        second.enter_context(turns.turn())
        with turns.turn() as ahead:
            assert ahead.waited_s == 0
            second.close()
            waited = ahead.waited_s
            assert waited > 0
            first.close()
            assert ahead.waited_s == waited
        with turns.turn() as later:
            pass
        assert later.waited_s == 0


def test_a_queued_pass_that_fails_leaves_the_queue() -> None:
    turns = Turns(1)
    with turns.turn():
        with pytest.raises(RuntimeError, match="too early"), turns.turn():
            raise RuntimeError("too early")
        with turns.turn() as ahead:
            pass
        assert ahead.waited_s == 0
