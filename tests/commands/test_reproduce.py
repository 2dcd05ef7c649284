"""`pellucid reproduce`: the same bytes from a fresh process, and plain words where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands.invoke import pellucid
from tests.support import SAMPLES, photograph, post

CAT = SAMPLES / "cat.jpg"


@pytest.fixture
def reply(client: httpx.Client, tmp_path: Path) -> Path:
    """Of a map whose gradient is computed, so that its bits would depend on a batch."""
    asked: dict[str, Any] = {"include": "predictions,grad_cam", "layer": "blocks.10", "overlay": True}
    file = tmp_path / "reply.json"
    file.write_bytes(post(client, "/v1/explain", photograph("cat"), provenance=True, **asked).content)
    return file


def altered(reply: Path, change: Any) -> Path:
    said = json.loads(reply.read_text("utf-8"))
    change(said)
    reply.write_text(json.dumps(said), "utf-8")
    return reply


def test_a_fresh_process_computes_identical_bytes(reply: Path) -> None:
    result = pellucid("reproduce", reply, CAT, "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["identical"] is True
    (picture,) = told["pictures"]
    assert all(each["same"] for each in picture["origin"])
    parts = {part["part"]: part["identical"] for part in picture["parts"]}
    assert {
        "grad_cam[Egyptian cat, blocks.10, grad-cam].mask",
        "grad_cam[Egyptian cat, blocks.10, grad-cam].raw",
    } < set(parts)
    assert all(parts.values())


def test_the_server_is_asked_where_one_is_named(reply: Path, server: str) -> None:
    result = pellucid("reproduce", reply, CAT, "--server", server)
    assert result.exit_code == 0, result.stderr
    assert "Identical, to the bit." in result.stderr


def test_other_weights_are_named_first(reply: Path, server: str) -> None:
    altered(reply, lambda said: said["provenance"]["network"].update(weights_sha256="0" * 64))
    result = pellucid("reproduce", reply, CAT, "--server", server)
    assert f"weights sha256: {'0' * 64} then, 579344248a93" in result.stderr
    assert "raw: identical" in result.stderr
    assert (result.exit_code, "names other weights" in result.stderr) == (1, True)


def test_numbers_and_pictures_that_differ_are_said_to_by_how_much(reply: Path, server: str) -> None:
    def change(said: dict[str, Any]) -> None:
        cam = said["results"][0]["grad_cam"][0]
        cam["raw"]["values"][0][0] += 0.25
        cam["mask"] = {**cam["overlay"]}
        said["results"][0]["predictions"][0]["label"] = "a dog"

    result = pellucid("reproduce", altered(reply, change), CAT, "--server", server)
    assert result.exit_code == 1
    assert "raw: differs by 0.25" in result.stderr
    assert "mask: 451 x 300 pixels then, 263 x 262 pixels now" in result.stderr
    assert "predictions: 'a dog' then, 'Egyptian cat' now" in result.stderr
    assert "Not identical" in result.stderr


def test_another_picture_is_told_before_anything_is_computed(reply: Path) -> None:
    result = pellucid("reproduce", reply, SAMPLES / "rocket.jpg", "--json")
    assert result.exit_code == 1
    assert "rocket.jpg is another picture" in result.stderr
    assert json.loads(result.stdout)["identical"] is False


def test_what_is_no_reply_or_has_no_provenance_is_said_so(tmp_path: Path, client: httpx.Client) -> None:
    file = tmp_path / "reply.json"
    file.write_bytes(post(client, "/v1/predict", photograph("cat")).content)
    result = pellucid("reproduce", file, CAT)
    assert (result.exit_code, "ask with provenance=true" in result.stderr) == (2, True)
    for strange in ("[]", '{"image": {}, "grad_cam": [{"target": 5}]}', '{"image": {}, "grad_cam": [{}, 5]}'):
        file.write_text(strange)
        result = pellucid("reproduce", file, CAT)
        assert (result.exit_code, "is no reply" in result.stderr) == (2, True), strange


@pytest.mark.parametrize("accept", ["image/png", "application/x-npz"])
def test_a_picture_that_carries_provenance_is_refused_with_what_to_send_instead(
    tmp_path: Path, client: httpx.Client, accept: str
) -> None:
    file = tmp_path / "map"
    file.write_bytes(post(client, "/v1/grad-cam", photograph("cat"), accept=accept, provenance=True).content)
    result = pellucid("reproduce", file, CAT)
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert "is no JSON. Only JSON replies can be computed again" in said
    assert "Repeat the request with Accept: application/json" in said
