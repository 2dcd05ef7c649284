"""The name of a network -> its module and what it expects, by the packages that say which networks there are."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

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
    load: Callable[[str], tuple[nn.Module, ModelSpec]] = found[0].load()
    return load(name)
