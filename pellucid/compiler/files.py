"""Files that hold a network with its weights: torch.export, ONNX, OpenVINO. None of their code runs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from torch import nn

from pellucid.compiler import exported
from pellucid.compiler.imported import read as imported
from pellucid.compiler.weights import WeightsError
from pellucid.network.file import digest_of

# Files of weights alone are among them: reading one says what to do.
SUFFIXES: Final = {".pt2", ".pt", ".pth", ".ckpt", ".safetensors", *imported.SUFFIXES}


def is_file(network: str | Path) -> bool:
    """Whether this names a file, and not a network of the catalogue or a class."""
    path = Path(network)
    return ":" not in str(network) and (path.suffix in SUFFIXES or path.is_file())


def of_file(path: Path, size: tuple[int, int] | None) -> tuple[nn.Module, tuple[int, int] | None, str]:
    """The network of a file, the (height, width) of its pixels, None if they may vary, and its weights' SHA-256.

    ``size`` is the size that is asked for, if any. Raises SourceError, also for files of weights and other programs.
    """
    if path.suffix in imported.SUFFIXES:
        net, of_input = imported.read(path, size)
        return net, of_input, imported.weights_digest(path)
    found = exported.load(path)
    if found.size and size and size != found.size:
        height, width = found.size
        raise WeightsError(f"{path.name} takes pixels of {height}x{width}, not {size[0]}x{size[1]}")
    return found.net, found.size, digest_of(path)
