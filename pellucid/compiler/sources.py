"""Loads a network by name, through the installed packages that register a loader, or by its class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from pellucid.network.names import ENTRY_POINTS
from pellucid.network.spec import ModelSpec


class SourceError(ValueError):
    """An unknown name, or weights that can't be loaded. The message says which, and lists the known names."""


def named(name: str) -> tuple[nn.Module, ModelSpec]:
    """The network of that name with its weights, in eval mode, and its spec. Raises SourceError."""
    entries = entry_points(group=ENTRY_POINTS)
    if not entries:
        raise SourceError("no installed package provides networks by name: reinstall pellucid")
    refusals: list[SourceError] = []
    for entry in entries:
        load: Callable[[str], tuple[nn.Module, ModelSpec]] = entry.load()
        try:
            return load(name)
        except SourceError as error:
            refusals.append(error)
    raise refusals[0]


def of_class(path: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a network from its class, ``package.module:Class``, with these arguments. Raises SourceError.

    This runs code of the module.
    """
    module, _, name = path.partition(":")
    try:
        target = import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
    except Exception as error:  # the module's code can raise anything
        raise SourceError(f"{path} can't be imported: {error}") from error
    if not callable(target):
        raise SourceError(f"{path} is not a class")
    try:
        net = target(**arguments)
    except Exception as error:
        raise SourceError(f"{path} can't be built with {dict(arguments)}: {error}") from error
    if not isinstance(net, nn.Module):
        raise SourceError(f"{path} returns {type(net).__name__}, not a torch.nn.Module")
    return net
