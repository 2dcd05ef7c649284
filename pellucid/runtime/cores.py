"""The number of cores that this process may use, and the processor's name and instructions."""

from __future__ import annotations

import math
import os
import platform
from functools import cache
from pathlib import Path


def available(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The number of cores: the minimum of the process's affinity and its cgroup's CPU quota, at least 1.

    ``os.cpu_count`` counts all cores of the host, even in a container that is limited to two.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota(cgroup) or cores))


def _quota(cgroup: Path) -> int | None:
    """The cgroup's CPU quota in cores, rounded up, or None. Tries cgroups version 2, then version 1."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return math.ceil(int(quota) / int(period)) if quota.isdigit() and int(quota) > 0 else None


def processor() -> str:
    """The processor's model name."""
    return _listed("model name") or platform.processor() or platform.machine()


@cache
def has_vnni() -> bool:
    """Whether the processor has VNNI, which adds products of 8-bit numbers exactly. False if it is not known."""
    return "_vnni" in _listed("flags")


def _listed(name: str) -> str:
    """The first value of that name in Linux's list of processors, or an empty string."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8", "replace").splitlines() if file.is_file() else []
    return next((value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name), "")
