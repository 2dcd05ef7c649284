"""The log: lines for people, or JSON for programs."""

from __future__ import annotations

import logging
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any, Literal

import orjson


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message, the record's ``fields``, and exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class Refusals:
    """Samples refusals for the log: one of each kind a second. Otherwise, overload would fill it. Metrics count all."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._omitted: Counter[str] = Counter()

    def sample(self, kind: str) -> dict[str, int] | None:
        """Further fields for a refusal's line: how many of its kind had none since the last line. None: no line."""
        now = time.monotonic()
        if now < self._next.get(kind, 0.0):
            self._omitted[kind] += 1
            return None
        self._next[kind] = now + 1
        omitted = self._omitted.pop(kind, 0)
        return {"omitted": omitted} if omitted else {}


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send all records of at least this level to standard error.

    Disables the lookup of source location, thread and process for each record, because no format shows them.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # see "Optimization" in Python's logging HOWTO
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonLines() if style == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)
