"""Checks the file of an atlas when it is opened: its digest, tables and sizes, and that it is of the network."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pellucid.atlas.content import (
    APPLICATION,
    BYS,
    DIGEST,
    ENTRY,
    FOOTER,
    LARGEST,
    LARGEST_CROP,
    LONGEST_NAME,
    MOST_BYTES,
    MOST_CHANNELS,
    MOST_LAYERS,
    SCHEMA,
    VERSION,
    About,
    AtlasError,
    LayerFacts,
)
from pellucid.network.file import CompiledNetwork


def parameters_digest(network: CompiledNetwork) -> str:
    """The digest by which an atlas knows its network: that of all parameters and buffers."""
    found = network.model.parameters_sha256
    if found is not None:
        return found
    digest = hashlib.sha256()
    for name in sorted(network.weights):
        digest.update(name.encode() + np.ascontiguousarray(network.weights[name]).tobytes())
    return digest.hexdigest()


def preprocess_digest(network: CompiledNetwork) -> str:
    """The digest of the network's preprocessing. Other pixels give other activations."""
    return hashlib.sha256(json.dumps(asdict(network.model.preprocess), sort_keys=True).encode()).hexdigest()


def classes_of(network: CompiledNetwork) -> int:
    """The number of classes that a picture can be predicted to be of."""
    return (network.model.output.shape or (len(network.model.labels),))[0]


def checked_digest(path: Path, name: str) -> str:
    """The SHA-256 of the file without its footer, which must have the same."""
    tail = len(FOOTER) + DIGEST
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(100)
            if head[:16] != b"SQLite format 3\0" or size < tail:
                raise AtlasError(f"{name} is not an atlas")
            if size > MOST_BYTES:
                raise AtlasError(f"{name} is too large for an atlas")
            file.seek(size - tail)
            footer = file.read()
            if footer[: len(FOOTER)] != FOOTER:
                raise AtlasError(f"{name} is cut off, or is not an atlas of version {VERSION}")
            file.seek(0)
            digest, left = hashlib.sha256(), size - tail
            while left and (part := file.read(min(left, 2**20))):
                digest.update(part)
                left -= len(part)
    except OSError as error:
        raise AtlasError(f"{name} can't be read: {error.strerror or error}") from error
    if digest.digest() != footer[len(FOOTER) :]:
        raise AtlasError(f"{name} was altered after it was built; build it again")
    pages = int.from_bytes(head[16:18], "big") * int.from_bytes(head[28:32], "big")
    # No write-ahead log, no cache size or vacuum of its own, UTF-8, and nothing where nothing should be.
    if head[18:24] + head[48:60] + head[72:92] != b"\1\1\0@  " + bytes(11) + b"\1" + bytes(20) or pages != size - tail:
        raise AtlasError(f"{name} is not a valid atlas: its header is not that of an atlas")
    return digest.hexdigest()


def check(database: sqlite3.Connection, name: str, network: CompiledNetwork) -> About:
    """Quick checks: no code, the tables of this version, sizes, and that the atlas is that of the network."""
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2**26)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")
    database.execute("PRAGMA cell_size_check = ON")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (application,) = database.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION:
        raise AtlasError(f"{name} is not an atlas")
    if version != VERSION:
        raise AtlasError(
            f"{name} is an atlas of version {version}, and Pellucid reads version {VERSION}; build it again"
        )
    schema = database.execute("SELECT sql FROM sqlite_schema ORDER BY rowid").fetchall()
    if [sql for (sql,) in schema] != [*SCHEMA]:
        raise AtlasError(f"{name} is not a valid atlas: it has other tables")
    rows = database.execute("SELECT facts FROM about LIMIT 2").fetchall()
    if len(rows) != 1 or not isinstance(rows[0][0], str) or len(rows[0][0]) > 2**16:
        raise AtlasError(f"{name} is not a valid atlas: it says nothing about itself")
    about = About.model_validate_json(rows[0][0])
    model = network.model
    if about.parameters_sha256 != parameters_digest(network) or about.preprocess_sha256 != preprocess_digest(network):
        other = "other weights or preprocessing" if about.network == model.name else repr(about.network[:80])
        raise AtlasError(f"{name} is the atlas of another network than {model.name} ({other}); build one for this one")
    _check_sizes(database, name, network, about)
    return about


def _check_sizes(database: sqlite3.Connection, name: str, network: CompiledNetwork, about: About) -> None:
    def refuse(why: str) -> AtlasError:
        return AtlasError(f"{name} is not a valid atlas: {why}")

    (layers,) = database.execute("SELECT count(*) FROM layers").fetchone()
    short = f"id >= 0 AND id < {MOST_LAYERS} AND length(name) + length(kind) + length(facts) < 1 << 16"
    found = database.execute(f"SELECT id, name, kind, facts FROM layers WHERE {short}").fetchall()
    if len(found) != layers:
        raise refuse("it has too many layers, or one with too long a name")
    shapes = {("layer", layer.name): layer.shape for layer in network.spec.layers}
    shapes |= {("gate", gate.layer): gate.shape for gate in network.spec.gates}
    facts: dict[tuple[str, str], LayerFacts] = {}
    limits = np.zeros((MOST_LAYERS, len(BYS), 4), int)  # channels, height and width of the map, cells of a mask
    for number, layer, kind, text in found:
        known = LayerFacts.model_validate_json(text)
        if (kind, layer) in facts or shapes.get((kind, layer)) != known.shape:
            raise refuse("it has a layer that the network does not have")
        facts[kind, layer] = known
        if kind == "layer":
            limits[number, :2] = *known.shape, known.cells[0] * known.cells[1]
        else:
            limits[number, 2:, 0] = known.shape[0]
    for (kind, layer), known in facts.items():
        before = facts.get(("layer", known.before)) if kind == "gate" else None
        if kind == "gate" and (before is None or before.shape[0] != known.shape[0]):
            raise refuse(f"the gate {layer} has no layer before it")
    channels = sum(known.shape[0] for known in facts.values())
    height, width = network.model.preprocess.size

    def wrong(table: str, valid: str, *values: int) -> bool:
        """Whether a row is not valid, or the ids are not 0, 1, 2 ..."""
        query = f"SELECT count(*), coalesce(min(id), 0), coalesce(max(id), -1), coalesce(min({valid}), 1) FROM {table}"
        count, first, last, all_valid = database.execute(query, values).fetchone()
        return bool(first != 0 or last != count - 1 or not all_valid)

    (pictures,) = database.execute("SELECT count(*) FROM pictures").fetchone()
    (crops,) = database.execute("SELECT count(*) FROM crops").fetchone()
    (examples,) = database.execute("SELECT count(*) FROM examples").fetchone()
    if pictures != about.pictures or examples > 2 * channels or crops > 2 * channels * about.examples:
        raise refuse("its pictures, examples and crops do not match what it says of itself")
    if max(about.damages.values(), default=0) > pictures:
        raise refuse("it has more damaged copies than pictures")
    classed = "(class IS NULL OR (typeof(class) = 'integer' AND class >= 0 AND class < ?))"
    named = "(name IS NULL OR (typeof(name) = 'text' AND length(name) <= ?))"
    valid = f"typeof(sha256) = 'blob' AND length(sha256) = {DIGEST} AND {classed} AND {named}"
    if wrong("pictures", valid, classes_of(network), LONGEST_NAME):
        raise refuse("its pictures are not numbered, or one has no digest, class or name")
    if not all(text.isprintable() for (text,) in database.execute("SELECT name FROM pictures WHERE name IS NOT NULL")):
        raise refuse("the name of a picture has characters that can't be shown")
    integers = " AND ".join(f"typeof({name}) = 'integer'" for name in ("picture", "x0", "y0", "x1", "y1"))
    inside = "picture >= 0 AND picture < ? AND x0 >= 0 AND y0 >= 0 AND x0 < x1 AND y0 < y1 AND x1 <= ? AND y1 <= ?"
    if wrong("crops", f"{integers} AND {inside}", pictures, width, height):
        raise refuse("a crop is of no picture, or has no box")
    webp = "substr(webp, 1, 4) = x'52494646' AND substr(webp, 9, 4) = x'57454250'"  # RIFF, WEBP
    if wrong("crops", f"typeof(webp) = 'blob' AND length(webp) <= ? AND {webp}", LARGEST_CROP):
        raise refuse("a crop is not a small WebP picture")
    of_crop = np.fromiter((picture for (picture,) in database.execute("SELECT picture FROM crops ORDER BY id")), int)
    sized = f"typeof(entries) = 'blob' AND typeof(masks) = 'blob' AND length(entries) % {ENTRY.itemsize} = 0"
    sized += f" AND key >= 0 AND length(entries) <= {about.examples * ENTRY.itemsize}"
    found = database.execute(f"SELECT key, entries, length(masks) FROM examples WHERE {sized}").fetchall()
    counts = np.array([len(entries) // ENTRY.itemsize for _, entries, _ in found], int)
    of_channel, by = np.divmod(np.array([key for key, *_ in found], np.int64), len(BYS))
    layer, channel = np.divmod(of_channel, MOST_CHANNELS)
    if len(found) != examples or (layer >= MOST_LAYERS).any() or (channel >= limits[layer, by, 0]).any():
        raise refuse("an example is broken, or of no channel")
    masks = np.array([length for *_, length in found], int)
    if (masks * (masks - counts * limits[layer, by, 3]) != 0).any():
        raise refuse("an example has a mask of another size")
    rows = np.frombuffer(b"".join(entries for _, entries, _ in found), ENTRY)
    within = (rows["picture"] >= 0) & (rows["picture"] < pictures) & (np.abs(rows["value"]) <= LARGEST)
    within &= (rows["row"] < 0) == (rows["column"] < 0)
    for axis, side in (("row", 1), ("column", 2)):
        within &= (rows[axis] >= -1) & (rows[axis] < np.repeat(limits[layer, by, side], counts))
    if not within.all():
        raise refuse("an example is of no picture, no position, or no number")
    cropped = rows[rows["crop"] != -1]
    if ((cropped["crop"] < 0) | (cropped["crop"] >= crops)).any():
        raise refuse("an example has a crop that is missing")
    if (of_crop[cropped["crop"]] != cropped["picture"]).any():
        raise refuse("an example has a crop of another picture")
