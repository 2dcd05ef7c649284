"""When a batch begins."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from pellucid.runtime.turns import Turns


def test_a_batch_that_finds_a_slot_free_begins_at_once() -> None:
    turns = Turns(2)
    with turns.turn(), turns.turn() as second:
        pass
    assert second.waited_s == 0


def test_a_batch_that_finds_none_begins_as_the_first_of_the_others_ends() -> None:
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


def test_one_that_fails_before_its_turn_has_none() -> None:
    turns = Turns(1)
    with turns.turn():
        with pytest.raises(RuntimeError, match="too early"), turns.turn():
            raise RuntimeError("too early")
        with turns.turn() as ahead:
            pass
        assert ahead.waited_s == 0
