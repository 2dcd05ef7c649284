"""Files of weights, verified and loaded strictly: safetensors, or a checkpoint under ``weights_only``.

No pickle runs.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pellucid.compiler.sources import SourceError

# Under which trainers save the state dict beside an optimiser's, an epoch and the like.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_SERVED = "served are a .safetensors file, and the network's state_dict() as torch.save writes it"
_NAMED = 8  # keys of each kind that an error names


class WeightsError(SourceError):
    """A file of weights that is missing, altered, unreadable, or of another network.

    The message says which and what to do.
    """


def read_state(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file or a torch checkpoint, on the CPU, as the network names them: without the
    dictionary that a trainer wrapped them in, and the prefix that a wrapped network gave them.

    Raises WeightsError if the file is missing, its digest is not ``sha256``, or it holds anything but tensors by name.
    """
    if not path.is_file():
        raise WeightsError(f"no file of weights at {path}")
    if sha256 is not None:
        found = digest(path)
        if found != sha256:
            raise WeightsError(f"{path.name} has sha256 {found}, expected {sha256}: fetch the file again")
    program = _program(path)
    if program:
        raise WeightsError(f"{path.name} holds a program ({program}), which isn't run: {_SERVED}")
    try:
        state: Any
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message advises to run the code
        raise WeightsError(
            f"{path.name} is not a file of weights that loads without running code: if a whole network was saved, save "
            "its model.state_dict() instead"
        ) from error
    except PermissionError as error:
        raise WeightsError(f"{path.name} can't be read: {error.strerror}") from error
    except Exception as error:  # torch and safetensors raise a dozen types, and words of torch's advise to run the code
        raise WeightsError(f"{path.name} is damaged, or no file of weights: {_SERVED}") from error
    if isinstance(state, dict):
        state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path.name} is not a state dict: tensors by name are needed")
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def _program(path: Path) -> str:
    """What wrote a whole network into this zip, or "" where no such thing did."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return ""
    return "TorchScript" if "constants.pkl" in members else "torch.export" if "archive_format" in members else ""


def digest(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_strict(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Fill ``net`` with ``state``. Raises WeightsError, naming keys and shapes, unless they fit exactly."""
    filled = OrderedDict(state)
    # Which version of its module a tensor was saved by is lost in a safetensors file, and mnasnet asks for it: today's.
    # Norms of unknown version may lack their counters of training batches, as those of 2017 do.
    norms = {path for path, module in net.named_modules() if isinstance(module, _BatchNorm)}
    today = getattr(net.state_dict(), "_metadata", {})
    filled._metadata = {path: version for path, version in today.items() if path not in norms}  # type: ignore[attr-defined]
    try:
        net.load_state_dict(filled, strict=True)
    except RuntimeError as error:
        own = net.state_dict()
        wrong = {
            "missing": [key for key in own if key not in state],
            "unexpected": [key for key in state if key not in own],
            "of another shape": [
                f"{key} {list(value.shape)}, not {list(own[key].shape)}"
                for key, value in state.items()
                if key in own and value.shape != own[key].shape
            ],
        }
        told = "; ".join(f"{kind}: {_listed(keys)}" for kind, keys in wrong.items() if keys) or str(error)
        raise WeightsError(f"the weights of {source} do not fit {type(net).__name__}: {told}") from error


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more
