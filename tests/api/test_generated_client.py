"""Others can make their own client: one that a generator wrote from /openapi.json asks a real server."""

from __future__ import annotations

PACKAGE = "pellucid_generated"
