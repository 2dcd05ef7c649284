"""The command line in this process."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from service.cli import main


def pellucid(*arguments: str | Path, url: str | None = None) -> Result:
    """What a command said, its two outputs apart, and its exit code."""
    environment = {"PELLUCID_URL": url, "PELLUCID_THREADS": "1", "COLUMNS": "200"}
    return CliRunner().invoke(main, [*map(str, arguments)], env=environment)
