"""The notebook of the docs runs from top to bottom, and shows what its committed outputs show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support import REPOSITORY, compiled

NOTEBOOK = REPOSITORY / "docs" / "notebook.ipynb"


def kinds(cell: Any) -> list[Any]:
    """What the outputs of a cell are."""
    return [output.get("name") or sorted(output["data"]) for output in cell.get("outputs", ())]


def test_the_notebook_runs_and_shows_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lite0", "lite0-plain"):
        compiled(name)  # else its first cell would take a minute
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # of the folder that it writes to
    committed, notebook = (nbformat.read(NOTEBOOK, 4) for _ in range(2))  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(tmp_path)}}).execute()  # raises errors
    assert [*map(kinds, notebook.cells)] == [*map(kinds, committed.cells)]
    assert sum("text/html" in kind for cell in committed.cells for kind in kinds(cell)) >= 6
    assert "stderr" not in str([*map(kinds, notebook.cells)])
    assert NOTEBOOK.stat().st_size < 400_000
    assert sorted(path.name for path in tmp_path.glob("*/*")) == ["coffee.svg", "mask.png", "shapes.pellucid"]
