"""What a served process holds, as the system counts it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support import Server


@dataclass(frozen=True)
class Level:
    """Resident memory in MiB, threads, and open file descriptors."""

    memory_mib: float
    threads: int
    descriptors: int


def level(server: Server) -> Level:
    """What the process holds now."""
    status = Path(f"/proc/{server.process.pid}/status").read_text("utf-8")
    values = dict(line.split(":", 1) for line in status.splitlines())
    descriptors = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    return Level(int(values["VmRSS"].split()[0]) / 1024, int(values["Threads"]), descriptors)
