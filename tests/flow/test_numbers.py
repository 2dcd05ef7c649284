"""Heat maps as files from which the numbers can be had back."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Any

import httpx
import numpy as np
import pytest

from pellucid.client import AsyncClient, Client
from pellucid.client.heat_maps import NPZ, PNG16, read_npz, read_png
from pellucid.render.numbers import png16
from tests.support import decoded_bytes, envelope, explained, post, problem

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


def test_a_16_bit_png_holds_each_number_within_half_a_step(client: httpx.Client, cat: bytes) -> None:
    response = post(client, "/v1/grad-cam", cat, accept=PNG16, layer="blocks.10", target="tabby", provenance=True)
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    cams = explained(client, "/v1/grad-cam", cat, layer="blocks.10", target="tabby", provenance=True).grad_cam
    assert cams is not None
    maps = read_png(response.content)
    values = np.array(cams[0].raw.values, np.float32)
    step = float(response.headers["pellucid-scale"])
    assert step == pytest.approx((cams[0].raw.max - cams[0].raw.min) / 65535)
    rounding = np.spacing(np.abs(values).max())
    assert np.abs(maps.heat[0].astype(np.float64) - values).max() <= step / 2 + rounding
    assert (maps.targets, maps.layers, maps.methods) == ((281,), ("blocks.10",), ("grad-cam",))
    assert [*maps.box] == cams[0].box
    assert maps.provenance is not None


@pytest.mark.parametrize(
    "values", [np.zeros((2, 3)), np.full((2, 2), -3.5), np.array([[1e-30, 2e-30]]), np.array([[-1e20, 3.0, 1e20]])]
)
def test_maps_without_a_range_and_with_any_come_back(values: np.typing.NDArray[np.float64]) -> None:
    heat = values.astype(np.float32)
    data, scale, offset = png16(heat)
    levels = decoded_bytes(data, "image/png").astype(np.float64)
    assert np.abs(offset + scale * levels - heat).max() <= scale / 2 * (1 + 1e-9)


def test_the_8_bit_mask_is_still_what_png_means(client: httpx.Client, cat: bytes) -> None:
    response = post(client, "/v1/grad-cam", cat, accept="image/png")
    assert "pellucid-scale" not in response.headers
    assert "pellucid-all-negative" in response.headers


def test_several_images_or_several_maps_are_not_one_file(client: httpx.Client, cat: bytes) -> None:
    problem(post(client, "/v1/grad-cam", cat, cat, accept=NPZ), 406, "not-acceptable")
    problem(post(client, "/v1/grad-cam", cat, accept=PNG16, **ASKED), 406, "not-acceptable")
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
