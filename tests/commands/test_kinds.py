"""The command line by what a network puts out: scores in their own terms, and replies that can be computed again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from pellucid.network.spec import OutputKind
from pellucid.schemas import Reply, Result
from tests.commands.invoke import pellucid
from tests.kinds import KINDS, compiled
from tests.support import SAMPLES, serving

CAT, COFFEE = SAMPLES / "cat.jpg", SAMPLES / "coffee.jpg"
# An option of each kind, and what `explain` says of the cat.
TOLD: dict[OutputKind, tuple[tuple[str | Path, ...], str]] = {
    "sigmoid": ((), r"%) ->"),
    "linear": (("--direction", "down"), "years) ->"),
    "dense": (("--region", "100,100,200,200"), "% of the picture) ->"),
    "embedding": (("--reference", COFFEE), "reference (0."),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_explained_and_its_reply_computed_again(kind: OutputKind, tmp_path: Path) -> None:
    network = compiled(kind, tmp_path)
    options, told = TOLD[kind]
    out = tmp_path / "out"
    done = pellucid("explain", CAT, "--model", network, "--out", out, *options)
    assert done.exit_code == 0, done.stderr
    assert told in " ".join(done.stderr.split())
    assert ("%" in done.stderr) == (kind in ("sigmoid", "dense"))
    assert (out / "cat" / "segmentation.png").exists() == (kind == "dense")
    everything = json.loads((out / "cat" / "explanation.json").read_text("utf-8"))
    (cam,) = everything["grad_cam"]
    assert (cam.get("direction"), cam.get("region", {}).get("kind")) == {
        "linear": ("down", None),
        "dense": (None, "box"),
    }.get(kind, (None, None))
    assert ("similarity" in cam["target"]) == (kind == "embedding")
    assert ("embedding" in json.loads((out / "cat" / "predictions.json").read_text("utf-8"))) == (kind == "embedding")


def test_networks_are_listed_with_their_outputs(tmp_path: Path) -> None:
    outputs = {"sigmoid": "4 labels", "linear": "2 quantities", "dense": "4 classes (dense)", "embedding": "6 dim"}
    for kind in KINDS:
        assert outputs[kind] in pellucid("models", "--model", compiled(kind, tmp_path)).stdout


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_is_computed_again_to_the_bit(kind: OutputKind, tmp_path: Path) -> None:
    network = compiled(kind, tmp_path)
    query: dict[str, Any] = {"linear": {"direction": "down"}, "dense": {"region": "100,100,200,200"}}.get(kind, {})
    files = {"images": CAT.read_bytes()} | ({"reference": COFFEE.read_bytes()} if kind == "embedding" else {})
    with serving(PELLUCID_MODEL=str(network)) as server:
        said = httpx.post(f"{server.url}/v1/explain", params={**query, "provenance": "true"}, files=files, timeout=60)
    reply = tmp_path / "reply.json"
    reply.write_bytes(said.content)
    (found,) = Reply.model_validate_json(said.content).results
    assert isinstance(found, Result)
    again: tuple[str | Path, ...] = ("reproduce", reply, CAT, "--model", network)
    if kind == "embedding":
        assert len(said.content) < 300_000, "the reference is not in the reply"
        missing = pellucid(*again)
        assert (missing.exit_code, "needs --reference FILE" in missing.stderr) == (2, True)
        other = pellucid(*again, "--reference", CAT)
        assert (other.exit_code, "is another picture" in other.stderr) == (1, True)
        again = (*again, "--reference", COFFEE)
    else:
        needless = pellucid(*again, "--reference", COFFEE)
        assert (needless.exit_code, "does not belong to this reply" in needless.stderr) == (2, True)
    done = pellucid(*again)
    assert done.exit_code == 0, done.stderr
    assert "Identical, to the bit." in done.stderr
