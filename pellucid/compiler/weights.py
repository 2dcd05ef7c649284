"""Reads and verifies weights files, and loads them strictly: safetensors, or checkpoints with ``weights_only``.

No code from a file runs.
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
from pellucid.network.file import digest_of

# Keys under which trainers save the state dict, beside the optimiser's state, the epoch and so on.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_SUPPORTED = "use a .safetensors file, or the network's state_dict() saved by torch.save"
# Programs by their format, and what to do instead of loading them as weights.
PROGRAMS = {
    "TorchScript": "is TorchScript, a program that is not run: build the network by its class and load its state_dict, "
    "or export it with torch.export (.pt2) or to ONNX",
    "torch.export": "is a network of torch.export, not weights: pellucid compile {}",
}
# Files of other kinds, and what to do.
_OTHERS = {
    "is of TensorFlow or Keras: convert it to ONNX, as tf2onnx does, and compile the .onnx file": (
        *(".keras", ".h5", ".hdf5", ".pb", ".tflite"),
    ),
    "is made for one runtime: compile the network that it was made from": (
        *(".mlmodel", ".engine", ".plan", ".gguf", ".pdmodel"),
    ),
    "is a picture, not a network: pellucid explain explains it": (
        *(".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".npy"),
    ),
}
_NAMED = 8  # keys of each kind that an error names


class WeightsError(SourceError):
    """A weights file is missing, altered, unreadable, or of another network. The message says which and what to do."""


def read_state(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file or a torch checkpoint, by name, on the CPU.

    Unwraps the dictionary of a trainer, and removes the prefix of a wrapped network from the names.

    Raises WeightsError if the file is missing, its digest is not ``sha256``, or it holds anything but tensors by name.
    """
    if not path.is_file():
        raise WeightsError(f"there is no weights file at {path}")
    check_digest(path, sha256)
    found = program(path)
    for what, suffixes in _OTHERS.items():
        if path.suffix.lower() in suffixes:
            raise WeightsError(f"{path.name} {what}")
    if found:
        raise WeightsError(f"{path.name} {PROGRAMS[found].format(path.name)}")
    try:
        state: Any
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises running the code
        if not (named := _objects(path)):
            raise WeightsError(f"{path.name} is not a weights file: {_SUPPORTED}") from error
        raise WeightsError(
            f"{path.name} can't be loaded without running its code{named}: if it holds a whole network, or "
            "objects beside the weights, as a trainer's hyper_parameters, save its model.state_dict() instead"
        ) from error
    except PermissionError as error:
        raise WeightsError(f"{path.name} can't be read: {error.strerror}") from error
    except Exception as error:  # torch and safetensors raise many types
        raise WeightsError(f"{path.name} is damaged or is not a weights file: {_SUPPORTED}") from error
    if isinstance(state, dict):
        state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path.name} is not a state dict: it must hold tensors by name")
    for prefix in _PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def check_digest(path: Path, sha256: str | None) -> None:
    """Raise WeightsError if the file's digest is not ``sha256``, unless that is None."""
    if sha256 is not None and (found := digest_of(path)) != sha256:
        raise WeightsError(f"{path.name} has sha256 {found}, expected {sha256}: download the file again")


def _objects(path: Path) -> str:
    """The classes and functions that a checkpoint names, for an error. Reads them without running code."""
    try:
        named = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # a file of another format
        return ""
    return f" ({_listed(named)})" if named else ""


def program(path: Path) -> str:
    """The format of a saved program, "TorchScript" or "torch.export", or "" for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError):
        return ""
    exported = {"archive_format", "serialized_exported_program.json"} & members  # the latter until torch 2.7
    return "TorchScript" if "constants.pkl" in members else "torch.export" if exported else ""


def load_prefixed(net: nn.Module, state: dict[str, Tensor], source: str, prefix: str | None = None) -> None:
    """``load_strict`` of the keys under ``prefix``, without it. A trainer's module holds the network in an attribute.

    If ``prefix`` is None, it is found: it is the only one under which the network's keys and shapes lie. Keys outside
    of a prefix, such as a loss function's, are not read. Raises WeightsError.
    """
    own = {key: value.shape for key, value in net.state_dict().items()}
    first = next(iter(own), "")
    held = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    if prefix is None and first not in state and held:
        fitting = [each for each in held if _shapes(state, each) == own] or held
        if len(fitting) > 1:
            raise WeightsError(
                f"{source} holds several networks, under the prefixes {_listed(fitting)}: choose one by --strip-prefix "
                "or by strip_prefix in the description"
            )
        (prefix,) = fitting
    if prefix:
        prefix = f"{prefix.rstrip('.')}."
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if not state:
            hint = f"; known prefixes: {_listed(held)}" if held else ""
            raise WeightsError(f"no key of {source} begins with {prefix!r}{hint}")
        source = f"{source} under {prefix!r}"
    load_strict(net, state, source)


def _shapes(state: dict[str, Tensor], prefix: str) -> dict[str, torch.Size]:
    return {key.removeprefix(prefix): value.shape for key, value in state.items() if key.startswith(prefix)}


def load_strict(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load ``state`` into ``net``. Raises WeightsError, with keys and shapes, unless it fits exactly."""
    filled = OrderedDict(state)
    # A safetensors file lacks the modules' versions, which mnasnet needs: use the current ones. Leave out those of
    # norms, because a norm without a version may lack its batch counter, as in checkpoints of 2017.
    norms = {path for path, module in net.named_modules() if isinstance(module, _BatchNorm)}
    current = getattr(net.state_dict(), "_metadata", {})
    filled._metadata = {path: version for path, version in current.items() if path not in norms}  # type: ignore[attr-defined]
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
        reason = "; ".join(f"{kind}: {_listed(keys)}" for kind, keys in wrong.items() if keys) or str(error)
        raise WeightsError(f"the weights of {source} do not fit {type(net).__name__}: {reason}") from error


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more


def parameters_digest(net: nn.Module) -> str:
    """SHA-256, in hexadecimal, of the names and values of all parameters and buffers. File formats do not change it."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
