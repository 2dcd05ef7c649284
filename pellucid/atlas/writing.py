"""Writes the file of an atlas."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from pellucid.atlas.content import (
    APPLICATION,
    ENTRY,
    FOOTER,
    LONGEST_NAME,
    SCHEMA,
    VERSION,
    About,
    By,
    LayerFacts,
    key_of,
)
from pellucid.network.file import replacing
from pellucid.types import Array, Box, Pixels


class Writer:
    """Writes an atlas. The file appears, complete, when ``writing`` ends without an error."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._layers = 0

    def about(self, about: About) -> None:
        self._database.execute("INSERT INTO about VALUES (?)", (about.model_dump_json(),))

    def pictures(self, rows: Sequence[tuple[bytes, int | None, str | None]]) -> None:
        """(digest, predicted class, name) of each picture. A name loses what is not printable, and its end."""
        named = [
            (number, digest, predicted, name and "".join(filter(str.isprintable, name))[-LONGEST_NAME:])
            for number, (digest, predicted, name) in enumerate(rows)
        ]
        self._database.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?)", named)

    def layer(self, name: str, kind: Literal["layer", "gate"], facts: LayerFacts, arrays: Mapping[str, Array]) -> int:
        """A layer or gate with its arrays. Returns its number."""
        number, self._layers = self._layers, self._layers + 1
        self._database.execute("INSERT INTO layers VALUES (?, ?, ?, ?)", (number, name, kind, facts.model_dump_json()))
        rows = [(number, key, np.ascontiguousarray(array).tobytes()) for key, array in sorted(arrays.items())]
        self._database.executemany("INSERT INTO arrays (layer, name, data) VALUES (?, ?, ?)", rows)
        return number

    def examples(self, layer: int, channel: int, by: By, entries: Array, masks: Pixels | None) -> None:
        """``entries`` ``[n]`` of the dtype ENTRY, ``masks`` ``[n, cells, cells]``."""
        data = b"" if masks is None else masks.tobytes()
        row = (key_of(layer, channel, by), entries.astype(ENTRY).tobytes(), data)
        self._database.execute("INSERT INTO examples VALUES (?, ?, ?)", row)

    def crop(self, number: int, picture: int, box: Box, webp: bytes) -> None:
        self._database.execute("INSERT INTO crops VALUES (?, ?, ?, ?, ?, ?, ?)", (number, picture, *box, webp))


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Write an atlas to ``path``, atomically."""
    with replacing(path) as scratch:
        with closing(sqlite3.connect(scratch, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {VERSION}")
            database.execute("BEGIN")
            for table in SCHEMA:
                database.execute(table)
            yield Writer(database)
            database.execute("COMMIT")
        with scratch.open("r+b") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
            file.seek(0, os.SEEK_END)
            file.write(FOOTER + digest)
