"""Files of weights, verified and loaded strictly: safetensors, or a checkpoint under ``weights_only``.

No pickle runs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn


class WeightsError(Exception):
    """A file of weights that is missing, altered, unreadable, or of another network.

    The message says which and what to do.
    """


def read_state(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or a torch checkpoint, on the CPU.

    Raises WeightsError if the file is missing, its digest is not ``sha256``, or it holds anything but tensors by name.
    """
    if not path.is_file():
        raise WeightsError(f"no file of weights at {path}")
    if sha256 is not None:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise WeightsError(f"{path.name} has sha256 {found}, expected {sha256}: fetch the file again")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen types for a file that isn't theirs
        raise WeightsError(f"{path.name} is not a file of weights that loads without running code: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path.name} is not a state dict: tensors by name are needed")
    return dict(state)


def load_strict(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Fill ``net`` with ``state``. Raises WeightsError, naming keys and shapes, unless they fit exactly."""
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(f"the weights of {source} do not fit {type(net).__name__}: {error}") from error
