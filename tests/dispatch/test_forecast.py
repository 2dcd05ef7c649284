"""What can't be answered by its deadline is refused at the door, with the time after which it could be."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from pellucid.errors import EngineDown, TooLate
from pellucid.types import Batch, Outcome, Plan
from service.dispatch.forecast import Forecast
from service.dispatch.worker import Worker


class NoEngine:
    """Names lanes, and runs nothing."""

    @property
    def slots(self) -> int:
        return 1

    def queues(self, lane: str) -> bool:
        return False

    def lane(self, plan: Plan) -> str:
        return plan.layer or ""

    def ready(self, plan: Plan) -> bool:
        return True

    def prepare(self, plan: Plan, alone: bool = False, keep: bool = False) -> None:
        raise NotImplementedError

    def run(self, batch: Batch) -> list[Outcome]:
        raise NotImplementedError


class SteadyWorker(Worker):
    """Takes a second for each image of the lane "slow", a tenth for any other's."""

    broken: str | None = None

    @property
    def fault(self) -> str | None:
        return self.broken

    def seconds_for(self, images: Mapping[str, int]) -> float:
        return sum(count * (1.0 if lane == "slow" else 0.1) for lane, count in images.items())


SLOW, FAST = Plan(layer="slow"), Plan()


@pytest.fixture
def worker() -> SteadyWorker:
    return SteadyWorker(NoEngine(), 8)


def soon(seconds: float) -> float:
    return time.monotonic() + seconds


def test_a_request_behind_too_much_is_refused_and_told_when_it_would_not_be(worker: SteadyWorker) -> None:
    forecast = Forecast(2)
    with forecast.expect(worker, SLOW, 6, soon(60)):
        with pytest.raises(TooLate) as refused, forecast.expect(worker, SLOW, 1, soon(4)):
            pass
        assert refused.value.headers == {"Retry-After": "5"}  # 1.25 x 7 s, less 4 s, rounded up
        with forecast.expect(worker, SLOW, 1, soon(9)), forecast.expect(worker, FAST, 1, soon(9)):
            pass
    with forecast.expect(worker, SLOW, 1, soon(4)):
        pass


def test_what_is_answered_makes_room(worker: SteadyWorker) -> None:
    forecast = Forecast(2)
    with forecast.expect(worker, SLOW, 4, soon(60)) as answered:
        with pytest.raises(TooLate), forecast.expect(worker, SLOW, 1, soon(2.5)):
            pass
        for _ in range(3):
            answered(0.0)
        with forecast.expect(worker, SLOW, 1, soon(3)):
            assert forecast.seconds_for(2) == 2
        assert forecast.seconds_for(1) == 1
    answered(0.0)  # by what was stopped when its caller left
    assert forecast.seconds_for(9) == 0


def test_a_lane_whose_forecast_nothing_tests_may_always_send_one(worker: SteadyWorker) -> None:
    forecast = Forecast(2)
    with (
        forecast.expect(worker, FAST, 1, soon(60)),
        forecast.expect(worker, SLOW, 9, soon(1)),
        pytest.raises(TooLate),
        forecast.expect(worker, SLOW, 1, soon(1)),
    ):
        pass


def test_decoding_and_rendering_count_as_well(worker: SteadyWorker) -> None:
    forecast = Forecast(threads=2)
    with forecast.expect(worker, FAST, 1, soon(60)) as answered:
        answered(2.0)
    with forecast.expect(worker, FAST, 3, soon(60)):
        with pytest.raises(TooLate), forecast.expect(worker, FAST, 1, soon(5)):
            pass
        with forecast.expect(worker, FAST, 1, soon(8)):  # 4 images of 2 s in 2 threads, and its own
            pass


def test_nothing_is_let_in_to_an_engine_that_is_down(worker: SteadyWorker) -> None:
    worker.broken = "It hangs."
    with pytest.raises(EngineDown), Forecast(2).expect(worker, FAST, 1, soon(60)):
        pass
