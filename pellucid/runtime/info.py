"""What decides the exact bits of an answer in this process: the engine, the processor, the library versions."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from pellucid.runtime.base import RuntimeInfo

# The libraries that process an image, from its bytes to the reply.
_LIBRARIES: Final = ("pellucid", "torch", "openvino", "numpy", "pillow", "simplejpeg", "cykooz-resizer", "isal")


def as_json(info: RuntimeInfo) -> dict[str, Any]:
    """The runtime as JSON data, for the provenance of a reply."""
    return {
        "name": info.engine,
        "device": info.device,
        "precision": info.precision,
        "threads": info.threads,
        "processor": info.processor,
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the installed libraries among ``_LIBRARIES``."""
    installed = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed
