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
    DIGEST,
    FOOTER,
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


def checked_digest(path: Path, name: str) -> str:
    """The SHA-256 of the file without its footer, which must have the same."""
    tail = len(FOOTER) + DIGEST
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if file.read(16) != b"SQLite format 3\0" or size < tail:
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
        raise AtlasError(f"{name} is an atlas of version {version}, and this is version {VERSION}; build it again")
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

    found = database.execute("SELECT name, kind, facts FROM layers LIMIT ?", (MOST_LAYERS + 1,)).fetchall()
    shapes = {("layer", layer.name): layer.shape for layer in network.spec.layers}
    shapes |= {("gate", gate.layer): gate.shape for gate in network.spec.gates}
    seen: set[tuple[str, str]] = set()
    scaled: set[tuple[str, str]] = set()
    for layer, kind, facts in found:
        known = LayerFacts.model_validate_json(facts)
        if (kind, layer) in seen or shapes.get((kind, layer)) != known.shape:
            raise refuse("it has a layer that the network does not have")
        seen.add((kind, layer))
        scaled |= {("layer", known.before)} if kind == "gate" else set()
    if not scaled <= seen:
        raise refuse("a gate has no layer before it")
    channels = sum(shapes[each][0] for each in seen)
    (examples,) = database.execute("SELECT count(*) FROM examples").fetchone()
    (largest,) = database.execute("SELECT max(id) FROM crops").fetchone()
    (pictures,) = database.execute("SELECT count(*) FROM pictures").fetchone()
    if len(found) > MOST_LAYERS or channels > MOST_LAYERS * MOST_CHANNELS or examples > 2 * channels:
        raise refuse("it has too many rows")
    if pictures != about.pictures or (largest or 0) > 2 * channels * about.examples:
        raise refuse("its pictures and crops do not match what it says of itself")
