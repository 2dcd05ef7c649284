"""Heat maps as a file of the numbers."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any

import httpx
import numpy as np

from pellucid.client import AsyncClient, Client
from pellucid.client.heat_maps import NPZ, read_npz
from tests.support import envelope, explained, post, problem

ASKED: dict[str, Any] = {"layer": "blocks.10", "target": ["281", "Egyptian cat"]}


def test_an_npz_holds_the_maps_of_all_targets_as_they_were_computed(client: httpx.Client, cat: bytes) -> None:
    response = post(client, "/v1/grad-cam", cat, accept=NPZ, provenance=True, **ASKED)
    assert (response.status_code, response.headers["content-type"]) == (200, NPZ)
    maps = read_npz(response.content)
    cams = explained(client, "/v1/grad-cam", cat, provenance=True, **ASKED).grad_cam
    assert cams is not None
    assert maps.heat.dtype == np.float32
    np.testing.assert_array_equal(maps.heat, np.array([cam.raw.values for cam in cams], np.float32))
    assert maps.targets == (281, 285)
    assert maps.layers == ("blocks.10",) * 2
    assert maps.methods == ("grad-cam",) * 2
    assert [*maps.box] == cams[0].box
    assert maps.size == (451, 300)
    assert maps.sha256 == sha256(cat).hexdigest()
    reply = envelope(post(client, "/v1/grad-cam", cat, provenance=True, **ASKED))
    assert maps.provenance is not None
    assert reply.provenance is not None
    assert maps.provenance["options"] == reply.provenance.options


def test_several_images_or_several_maps_are_not_one_file(client: httpx.Client, cat: bytes) -> None:
    problem(post(client, "/v1/grad-cam", cat, cat, accept=NPZ), 406, "not-acceptable")
    problem(post(client, "/v1/grad-cam", cat, accept="image/png", **ASKED), 406, "not-acceptable")
    assert NPZ not in (problem(post(client, "/v1/attention", cat, accept=NPZ), 406, "not-acceptable").allowed or [])


async def _maps(server: str, cat: bytes) -> object:
    async with AsyncClient(server, timeout_s=200) as client:
        return (await client.heat_maps(cat, target=[281], provenance=True)).heat.tobytes()


def test_both_clients_read_them(server: str, cat: bytes) -> None:
    with Client(server, timeout_s=200) as client:
        maps = client.heat_maps(cat, target=[281], provenance=True)
        reply = client.reply("/v1/grad-cam", cat, target=[281], provenance=True)
    assert maps.heat.shape == (1, 7, 7)
    assert reply.provenance is not None
    assert asyncio.run(_maps(server, cat)) == maps.heat.tobytes()
