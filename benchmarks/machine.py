"""Which machine figures are of."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from pellucid.runtime import cores

# What the processor computes in, of what matters to a network.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
_PACKAGES = ("torch", "openvino", "fastapi", "uvicorn", "grad-cam", "litserve", "captum", "mosec", "ray")


def describe() -> dict[str, Any]:
    """Processor, cores that may be used, memory, versions, the commit, and how busy it was before the run."""
    describe = ("git", "describe", "--always", "--dirty", "--exclude=*")
    commit = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True)
    model, flags = _processor()
    return {
        "commit": commit.stdout.strip(),
        "processor": model,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": cores.available(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "settings": {name: value for name, value in os.environ.items() if name.startswith("PELLUCID_")},
        "date": datetime.now(UTC).date().isoformat(),
        "load_average": os.getloadavg()[0],
    }


def _processor() -> tuple[str, set[str]]:
    found: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            found.setdefault(name.strip(), value.strip())
    return found.get("model name", platform.processor() or platform.machine()), set(found.get("flags", "").split())
