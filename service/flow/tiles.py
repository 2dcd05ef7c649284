"""The jobs of a picture that the network sees in tiles, as one job. They share lanes and batches with all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import replace
from threading import Lock

from pellucid.types import DecodedImage, Finished, Plan

from .networks import Served


class TiledJob(Future[Finished]):
    """The merged outcome of an image's tiles, queued by the ``plan`` of the whole picture.

    The first error of a tile is its error. Cancelling it cancels their jobs.
    """

    def __init__(self, network: Served, image: DecodedImage, plan: Plan, deadline: float) -> None:
        super().__init__()
        self._network, self._image, self._plan, self._deadline = network, image, plan, deadline
        self._jobs: list[Future[Finished]] = []
        self._aiming_s = 0.0
        if network.tiles.needs_class(plan):
            self._start(network.tiles.predicting(plan), self._aimed)
        else:
            self._explain()

    def cancel(self) -> bool:
        cancelled = super().cancel()
        for job in self._jobs:
            job.cancel()
        return cancelled

    def _start(self, plan: Plan, then: Callable[[Sequence[Finished]], None]) -> None:
        """Queue all tiles by this plan. ``then`` takes their outcomes, in the pool."""
        worker = self._network.worker
        self._jobs = jobs = [worker.submit(pixels, plan, self._deadline) for pixels in self._image.tiles]
        left, lock = len(jobs), Lock()

        def following(job: Future[Finished]) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = not left
            if not job.cancelled() and (error := job.exception()) is not None:
                self._settle(lambda: self.set_exception(error))
            if self.done():  # it failed, or was cancelled
                for other in jobs:
                    other.cancel()
            elif last:
                self._jobs = []  # they refer to this
                done = [job.result() for job in jobs]
                try:
                    self._network.pool.submit(self._continue, then, done)
                except RuntimeError:  # the pool is closed
                    self._continue(then, done)

        for job in jobs:
            job.add_done_callback(following)
        if self.cancelled():  # before it knew the jobs
            self.cancel()

    def _continue(self, then: Callable[[Sequence[Finished]], None], done: Sequence[Finished]) -> None:
        try:
            then(done)
        except BaseException as error:
            raised = error
            self._settle(lambda: self.set_exception(raised))

    def _explain(self) -> None:
        assert self._image.tiling is not None
        network = self._network
        self._start(network.tiles.of_tile(self._plan, network.network, network.spec, self._image.tiling), self._merged)

    def _aimed(self, done: Sequence[Finished]) -> None:
        self._aiming_s = max(one.outcome.infer_s for one in done)
        self._plan = self._network.tiles.with_class(self._plan, [one.outcome for one in done])
        if not self.done():
            self._explain()

    def _merged(self, done: Sequence[Finished]) -> None:
        assert self._image.tiling is not None
        outcomes = [one.outcome for one in done]
        found = self._network.tiles.merged(outcomes, self._plan, self._image.tiling, self._network.spec.output)
        found = replace(found, infer_s=found.infer_s + self._aiming_s)
        queue_s, batch_size = (max(getattr(one, name) for one in done) for name in ("queue_s", "batch_size"))
        self._settle(lambda: self.set_result(Finished(found, queue_s, batch_size)))

    def _settle(self, setter: Callable[[], None]) -> None:
        with suppress(InvalidStateError):
            setter()
