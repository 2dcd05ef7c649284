"""What the worker needs of an engine; ``pellucid.engine`` has the one that is served."""

from __future__ import annotations

from typing import Protocol

from pellucid.types import Batch, Outcome, Plan


class Engine(Protocol):
    """A network loaded once. At most ``slots`` threads may call ``run`` at a time, and one more with a batch of a lane
    that it ``queues``.
    """

    @property
    def slots(self) -> int:
        """How many batches are best run side by side: more than one where each has cores of its own."""
        ...

    def run(self, batch: Batch) -> list[Outcome]:
        """One outcome for each image of a batch of one lane, in order, whatever its neighbours.

        An image that has become void (Batch.void) may have an outcome that was given up.
        """
        ...

    def lane(self, plan: Plan) -> str:
        """Plans with the same lane may share a batch without one paying for what only another needs.

        Raises Unexplainable where a plan asks for a gradient that the network does not have.
        """
        ...

    def queues(self, lane: str) -> bool:
        """Whether a batch of this lane may be handed over while all slots are busy, to begin when the first is free."""
        ...

    def ready(self, plan: Plan) -> bool:
        """Whether a plan can be run at once."""
        ...

    def prepare(self, plan: Plan, alone: bool = False, keep: bool = False) -> None:
        """Compile what a plan needs, beside other batches or ``alone``, and ``keep`` it for good; it takes no slot."""
        ...
