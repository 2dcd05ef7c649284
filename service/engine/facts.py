"""What of this process decides the bits of an answer: the engine, the processor, the libraries."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import torch

# From the bytes of a picture to those of the reply.
_LIBRARIES: Final = (
    "pellucid",
    "torch",
    "torchvision",
    "openvino",
    "numpy",
    "pillow",
    "simplejpeg",
    "cykooz-resizer",
    "isal",
    "timm",
)


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """``engine``, ``device`` and ``precision`` as the settings of these names take them; ``threads`` of the network."""

    engine: str
    device: str
    precision: str
    threads: int

    def told(self) -> dict[str, Any]:
        """These, and what computes: the processor, or the CUDA device."""
        return {
            "name": self.engine,
            "device": self.device,
            "precision": self.precision,
            "threads": self.threads,
            "processor": _device(self.device) if self.device.startswith("cuda") else _processor(),
        }


def versions() -> dict[str, str]:
    """Of Python and of each installed library that takes part."""
    return {"python": platform.python_version(), **{name: found for name, found in _installed(_LIBRARIES)}}


def _installed(names: Sequence[str]) -> list[tuple[str, str]]:
    found = []
    for name in names:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found


def _device(name: str) -> str:
    return f"{torch.cuda.get_device_name(name)}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]


def _processor() -> str:
    """The processor's model, and the instructions that torch chose for it."""
    model = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        lines = (line.partition(":") for line in listed.read_text("utf-8", "replace").splitlines())
        model = next((value.strip() for name, _, value in lines if name.strip() == "model name"), model)
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"
