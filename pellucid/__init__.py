"""Explains what a convolutional network sees in an image.

::

    import pellucid

    pellucid.compile(net, "pets.pellucid", labels=["cat", "dog"], size=224, output="softmax")  # needs torch
    pets = pellucid.open("pets.pellucid")  # needs no torch
    pets.grad_cam("photo.jpg", layer="layer3", overlay=True)[0].overlay.to_pil().show()

- ``compile`` writes a torch module to the file of a compiled network.
- ``open`` runs a compiled network in this process.
- ``Client`` and ``AsyncClient`` have the same methods, for a server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.client import ApiError as ApiError
    from pellucid.client import AsyncClient as AsyncClient
    from pellucid.client import Client as Client
    from pellucid.compiler.compiling import CompileError as CompileError
    from pellucid.compiler.compiling import compile as compile
    from pellucid.errors import PellucidError as PellucidError
    from pellucid.library import Network as Network
    from pellucid.library import open as open
    from pellucid.network.file import CompiledNetwork as CompiledNetwork
    from pellucid.network.file import NetworkFileError as NetworkFileError
    from pellucid.network.names import NetworkNameError as NetworkNameError

# The module of each public name. Modules are imported on first use, because torch, OpenVINO and httpx load slowly.
_MODULES = {
    "ApiError": "pellucid.client",
    "AsyncClient": "pellucid.client",
    "Client": "pellucid.client",
    "CompileError": "pellucid.compiler.compiling",
    "CompiledNetwork": "pellucid.network.file",
    "Network": "pellucid.library",
    "NetworkFileError": "pellucid.network.file",
    "NetworkNameError": "pellucid.network.names",
    "PellucidError": "pellucid.errors",
    "compile": "pellucid.compiler.compiling",
    "open": "pellucid.library",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        extra = "compile" if "compiler" in _MODULES[name] else "cpu"
        raise ModuleNotFoundError(
            f"pellucid.{name} needs {error.name}: pip install 'pellucid[{extra}]'", name=error.name
        ) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
