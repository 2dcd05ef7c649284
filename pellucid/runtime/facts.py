"""What of this process decides the bits of an answer: the engine, the processor, the libraries."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from pellucid.runtime.base import Facts

# From the bytes of a picture to those of the reply.
_LIBRARIES: Final = ("pellucid", "torch", "openvino", "numpy", "pillow", "simplejpeg", "cykooz-resizer", "isal")


def told(facts: Facts) -> dict[str, Any]:
    """What runs a network, as a reply's provenance has it."""
    return {
        "name": facts.engine,
        "device": facts.device,
        "precision": facts.precision,
        "threads": facts.threads,
        "processor": facts.processor,
    }


def versions() -> dict[str, str]:
    """Of Python and of each installed library that takes part."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
