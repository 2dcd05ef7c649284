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
    """Build a network from its class or a function, ``package.module:Class``, with these arguments. Raises SourceError.

    The path may also name a network that the module has built. This runs code of the module.
    """
    module, _, name = path.partition(":")
    if module.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        raise SourceError(f"{path} names a file: name its module, as {dotted}:{name}")
    try:
        target = import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
    except Exception as error:  # the module's code can raise anything
        raise SourceError(f"{path} can't be imported: {error}") from error
    if isinstance(target, nn.Module):
        if arguments:
            raise SourceError(f"{path} is a network that is built already, so --arguments have no use: name its class")
        return target
    if not callable(target):
        raise SourceError(f"{path} is not a class, a function or a network, but of the type {type(target).__name__}")
    try:
        net = target(**arguments)
    except Exception as error:
        hint = "" if arguments else "; --arguments gives its arguments, or name a function without any that builds it"
        raise SourceError(f"{path} can't be built with {dict(arguments)}: {error}{hint}") from error
    if not isinstance(net, nn.Module):
        raise SourceError(f"{path} returns {type(net).__name__}, not a torch.nn.Module")
    return net
