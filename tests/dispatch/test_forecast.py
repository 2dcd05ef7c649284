"""A request that cannot be answered by its deadline is refused on arrival, with a Retry-After."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from pellucid.errors import EngineDown, TooLate
from pellucid.types import Batch, Outcome, Plan
from service.dispatch.admission import Forecast
from service.dispatch.worker import Worker


class NoEngine:
    """An engine that only names lanes."""

    @property
    def slots(self) -> int:
        return 1

    def queues(self, lane: str) -> bool:
        return False

    @property
    def size(self) -> tuple[int, int]:
        return 1, 1

    def lane(self, plan: Plan) -> str:
        return plan.layer or ""

    def ready(self, plan: Plan) -> bool:
        return True

    def prepare(self, plan: Plan, alone: bool = False, keep: bool = False) -> None:
        raise NotImplementedError

    def run(self, batch: Batch) -> list[Outcome]:
        raise NotImplementedError


class SteadyWorker(Worker):
    """Predicts 1 s for each image of the lane "slow", and 0.1 s for any other image."""

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


def test_a_request_that_would_be_late_is_refused_with_retry_after(worker: SteadyWorker) -> None:
    forecast = Forecast(2)
    with forecast.expect(worker, SLOW, 6, soon(60)):
        with pytest.raises(TooLate) as refused, forecast.expect(worker, SLOW, 1, soon(4)):
            pass
        assert refused.value.headers == {"Retry-After": "5"}  # 1.25 x 7 s, less 4 s, rounded up
        with forecast.expect(worker, SLOW, 1, soon(9)), forecast.expect(worker, FAST, 1, soon(9)):
            pass
    with forecast.expect(worker, SLOW, 1, soon(4)):
        pass


def test_answered_images_make_room(worker: SteadyWorker) -> None:
    forecast = Forecast(2)
    with forecast.expect(worker, SLOW, 4, soon(60)) as answered:
        with pytest.raises(TooLate), forecast.expect(worker, SLOW, 1, soon(2.5)):
            pass
        for _ in range(3):
            answered(0.0)
        with forecast.expect(worker, SLOW, 1, soon(3)):
            assert forecast.seconds_for(2) == 2
        assert forecast.seconds_for(1) == 1
    answered(0.0)  # a late call, from a task whose caller has left
    assert forecast.seconds_for(9) == 0


def test_an_idle_lane_accepts_a_request_whatever_its_forecast(worker: SteadyWorker) -> None:
    forecast = Forecast(2)
    with (
        forecast.expect(worker, FAST, 1, soon(60)),
        forecast.expect(worker, SLOW, 9, soon(1)),
        pytest.raises(TooLate),
        forecast.expect(worker, SLOW, 1, soon(1)),
    ):
        pass


def test_the_forecast_includes_decoding_and_rendering(worker: SteadyWorker) -> None:
    forecast = Forecast(threads=2)
    with forecast.expect(worker, FAST, 1, soon(60)) as answered:
        answered(2.0)
    with forecast.expect(worker, FAST, 3, soon(60)):
        with pytest.raises(TooLate), forecast.expect(worker, FAST, 1, soon(5)):
            pass
        with forecast.expect(worker, FAST, 1, soon(8)):  # 4 images of 2 s in 2 threads, plus one
            pass


def test_requests_are_refused_while_the_engine_is_down(worker: SteadyWorker) -> None:
    worker.broken = "It hangs."
    with pytest.raises(EngineDown), Forecast(2).expect(worker, FAST, 1, soon(60)):
        pass
