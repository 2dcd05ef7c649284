"""The name of a network -> its module and what it expects, by the packages that say which networks there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from pellucid.network.names import ENTRY_POINTS
from pellucid.network.spec import ModelSpec


class SourceError(ValueError):
    """A name that no package knows, or weights that can't be had. The message says which and what is known."""


def named(name: str) -> tuple[nn.Module, ModelSpec]:
    """The network of that name with its weights, in eval mode. Raises SourceError."""
    found = [*entry_points(group=ENTRY_POINTS)]
    if not found:
        raise SourceError("no installed package says which networks there are: install pellucid anew")
    refusals: list[SourceError] = []
    for entry in found:
        load: Callable[[str], tuple[nn.Module, ModelSpec]] = entry.load()
        try:
            return load(name)
        except SourceError as error:
            refusals.append(error)
    raise refusals[0]


def of_class(path: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network of a class, given as ``package.module:Class``, that is made with these arguments. Raises SourceError.

    Importing the module and making the network run its code.
    """
    module, _, name = path.partition(":")
    try:
        found = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the module's own code raises
        raise SourceError(f"{path} can't be imported: {error}") from error
    if not callable(found):
        raise SourceError(f"{path} is no class")
    try:
        net = found(**arguments)
    except Exception as error:
        raise SourceError(f"{path} can't be made of {dict(arguments)}: {error}") from error
    if not isinstance(net, nn.Module):
        raise SourceError(f"{path} makes no torch.nn.Module, but {type(net).__name__}")
    return net
