"""One request, as it is told to the log, the metrics and the traces."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

STAGES: Final = ("decode", "queue", "infer", "explain", "trust", "render")
# What is told of a path that no route has: callers choose paths, and no metric may grow by what they choose.
NO_ROUTE: Final = "other"


class StageTimes(Protocol):
    """Of one image: the network, seconds by stage, and when those that are timed began (``time.perf_counter``)."""

    model: str
    seconds: dict[str, float]
    begun: dict[str, float]
    batch_size: int


@dataclass(slots=True)
class Call:
    """Filled in on its way. ``problems`` are the kinds of errors that its caller was told, one for each image at most.

    ``traceparent`` is the header of that name (W3C). Nothing that came in a body, no key and no filename is in here.
    """

    request_id: str
    method: str
    traceparent: str = ""
    route: str = NO_ROUTE
    status: int = 0
    seconds: float = 0
    model: str = ""
    stages: Sequence[StageTimes] = ()
    problems: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    def end(self, route: str, status: int) -> None:
        """It is over."""
        self.route, self.status = route, status
        self.seconds = time.perf_counter() - self.began

    def fields(self) -> dict[str, Any]:
        """What the log says of it."""
        told: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "ms": round(self.seconds * 1000, 1),
            "images": len(self.stages),
        }
        if self.model:
            told["model"] = self.model
        if self.problems:
            told["problems"] = sorted(set(self.problems))
        return told
