"""Sources of networks, one module each. Each source of architectures has these functions:

- ``load(name)``: the network with published weights, and its spec (not in ``lite_source``; alone in ``hf_source``)
- ``blank(name, classes, arguments, keys)``: the network with random weights, for a checkpoint with these keys
- ``preprocess(name)``: the preprocessing of its published weights
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from pellucid.compiler.sources import SourceError


class UnknownModelError(SourceError):
    """No network has this name. The message lists the known names, or the closest ones."""

    @classmethod
    def among(cls, source: str, name: str, known: Iterable[str]) -> UnknownModelError:
        """The error for a name that is not among the ``known`` names of ``source``."""
        close = get_close_matches(name, [*known], n=3, cutoff=0.5)
        hint = f"; close to it: {', '.join(f'{source}:{other}' for other in close)}" if close else ""
        return cls(f"{source} has no network named {name!r}{hint}")
