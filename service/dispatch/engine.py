"""The interface between the worker and an engine. ``pellucid.engine`` implements it."""

from __future__ import annotations

from typing import Protocol

from pellucid.types import Batch, Outcome, Plan


class Engine(Protocol):
    """One loaded network.

    At most ``slots`` threads may call ``run`` at a time. One more thread may call it with a batch of a lane for which
    ``queues`` is true.
    """

    @property
    def slots(self) -> int:
        """The number of batches to run in parallel: more than one if each gets its own cores."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """The network's own size of pixels (height, width)."""
        ...

    def run(self, batch: Batch) -> list[Outcome]:
        """Run a batch of one lane, and return one outcome for each image, in order.

        An outcome does not depend on the other images. If ``Batch.void`` is true for an image, its outcome may be
        incomplete (``given_up``).
        """
        ...

    def lane(self, plan: Plan) -> str:
        """The plan's lane. Plans with the same lane can share a batch, because they need the same outputs.

        Raises Unexplainable if the plan needs a gradient that the network does not have.
        """
        ...

    def queues(self, lane: str) -> bool:
        """Whether the engine queues a batch of this lane while all slots are busy, and starts it once one is free."""
        ...

    def ready(self, plan: Plan) -> bool:
        """Whether the plan can run without compiling anything."""
        ...

    def prepare(self, plan: Plan, alone: bool = False, keep: bool = False) -> None:
        """Compile what the plan needs, for batches in parallel, or, with ``alone``, for a batch on all cores.

        ``keep``: never evict it. Takes no slot: batches may run meanwhile.
        """
        ...
