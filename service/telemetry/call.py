"""One request, as it is reported to the log, the metrics and the traces."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

STAGES: Final = ("decode", "queue", "infer", "explain", "trust", "render")
# The reported route of a path without a route. Clients choose paths freely, and must not create new series of metrics.
NO_ROUTE: Final = "other"


class StageTimes(Protocol):
    """One image's network, its seconds by stage, and the start times of stages (``time.perf_counter``)."""

    model: str
    seconds: dict[str, float]
    begun: dict[str, float]
    batch_size: int


@dataclass(slots=True)
class Call:
    """The facts about one request, filled in while it is served.

    ``problems`` are the slugs of the errors in the reply, at most one for each image. ``traceparent`` is the W3C
    header. Never put contents of a body, a key or a filename in here.
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
        """Record the end of the request."""
        self.route, self.status = route, status
        self.seconds = time.perf_counter() - self.began

    def fields(self) -> dict[str, Any]:
        """The fields of the request's log line."""
        fields: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "ms": round(self.seconds * 1000, 1),
            "images": len(self.stages),
        }
        if self.model:
            fields["model"] = self.model
        if self.problems:
            fields["problems"] = sorted(set(self.problems))
        return fields
