"""Many pictures, some at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import httpx

from pellucid.client.errors import ApiError
from pellucid.client.images import ImageSource
from pellucid.schemas import Result

Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many pictures are done, and of how many."""

# What is one picture's misfortune, and no mistake of the program.
FAILURES: Final = (ApiError, httpx.HTTPError, OSError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Explained:
    """One picture of many: its result, or why there is none."""

    source: ImageSource
    result: Result | None = None
    error: Exception | None = None
