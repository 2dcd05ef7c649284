"""What a convolutional network sees in an image, and why: the library.

::

    import pellucid

    pellucid.compile(net, "pets.pellucid", labels=["cat", "dog"], size=224)  # where torch is
    pets = pellucid.open("pets.pellucid")  # anywhere
    pets.grad_cam("photo.jpg", layer="layer3", overlay=True)[0].overlay.to_pil().show()

- open: a compiled network in this process; compile: a torch module -> the file of one
- Client, AsyncClient: the same of a server
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.client import ApiError, AsyncClient, Client
    from pellucid.compiler.compiling import CompileError, compile
    from pellucid.errors import PellucidError
    from pellucid.library import Network, open
    from pellucid.network.file import CompiledNetwork, NetworkFileError
    from pellucid.network.names import NetworkNameError

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "CompileError",
    "CompiledNetwork",
    "Network",
    "NetworkFileError",
    "NetworkNameError",
    "PellucidError",
    "compile",
    "open",
]

# Where each name is defined: loaded when it is first asked for, since torch, OpenVINO and httpx take their time.
_HOMES = {
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


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        found = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        extra = "compile" if "compiler" in _HOMES[name] else "cpu"
        raise ModuleNotFoundError(
            f"pellucid.{name} needs {error.name}: pip install 'pellucid[{extra}]'", name=error.name
        ) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
