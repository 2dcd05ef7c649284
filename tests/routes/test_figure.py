"""One figure of an answer: it shows what the JSON says, in a size and colours for reports."""

from __future__ import annotations

import itertools
from typing import Any
from xml.etree import ElementTree

import httpx
import numpy as np
import pytest

from pellucid.render import typeface
from pellucid.render.figure import number
from pellucid.schemas import CompareReply
from pellucid.schemas.side_by_side import MapOnScale
from tests.support import decoded_bytes, encoded, explained, parsed, post, present, problem

SVG = "image/svg+xml"


def figure_texts(client: httpx.Client, route: str, *images: bytes, **options: Any) -> list[str]:
    """All texts of a figure."""
    response = post(client, route, *images, accept=SVG, **options)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == SVG
    root = ElementTree.fromstring(response.content)
    assert root.get("width") == "1200"
    return [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_figure_says_what_the_json_says(client: httpx.Client, cat: bytes) -> None:
    asked: dict[str, Any] = {"target": ["tabby", "espresso"], "method": ["grad-cam", "layercam"], "layer": "blocks.10"}
    answer = explained(client, "/v1/explain", cat, **asked)
    texts = figure_texts(client, "/v1/explain", cat, **asked)
    said = " | ".join(texts)
    for prediction in present(answer.predictions):
        assert {prediction.label, prediction.score} <= {*texts}
    for cam in present(answer.grad_cam):
        assert f"{cam.target.label}, {cam.target.score}" in texts
        assert f"{cam.method} at {cam.layer}" in texts
        assert {number(max(0, cam.raw.min)), number(cam.raw.max)} <= {*texts}
    gates = present(answer.attention).gates
    gate = max(gates, key=lambda gate: max(abs(weight - 1) for weight in gate.weights))
    channel = int(np.abs(np.subtract(gate.weights, 1)).argmax())
    assert f"{gate.layer}, channel {channel}" in texts
    assert f"\N{MULTIPLICATION SIGN} {gate.weights[channel]:.2f}" in texts
    assert answer.image.sha256[:12] in said
    assert "Grad-CAM: Selvaraju et al. 2017" in said


def test_a_figure_is_as_wide_as_a_page_in_light_and_dark(client: httpx.Client, cat: bytes) -> None:
    pages = []
    for theme in ("light", "dark"):
        response = post(client, "/v1/explain", cat, accept="image/png", theme=theme)
        pages.append(decoded_bytes(response.content, "image/png"))
        assert pages[-1].shape[1:] == (1200, 3)
    assert [page[0, 0].tolist() for page in pages] == [[255, 255, 255], [20, 24, 29]]
    assert "theme" in problem(post(client, "/v1/explain", cat, theme="sepia"), 422, "invalid-option").detail


def test_a_signed_map_has_a_scale_around_0(client: httpx.Client, cat: bytes) -> None:
    (cam,) = present(explained(client, "/v1/explain", cat, signed=True, target="tabby").grad_cam)
    reach = number(max(-cam.raw.min, cam.raw.max))
    texts = figure_texts(client, "/v1/explain", cat, signed=True, target="tabby")
    assert {f"\N{MINUS SIGN}{reach}", "0", reach} <= {*texts}


def test_the_sentence_of_trust_stands_in_the_figure(client: httpx.Client, cat: bytes) -> None:
    few = {"trust": True, "trust_steps": 2, "trust_maps": 4, "include": "grad_cam"}
    (cam,) = present(explained(client, "/v1/explain", cat, **few).grad_cam)
    assert present(cam.trust).sentence in " ".join(figure_texts(client, "/v1/explain", cat, **few))


def test_a_comparison_has_both_sides_and_one_scale(client: httpx.Client, cat: bytes, coffee: bytes) -> None:
    for images, options in (
        ((cat,), {"target": ["Egyptian cat", "tabby"]}),
        ((cat, coffee), {}),
        ((cat,), {"against_model": "lite0-plain"}),
    ):
        found = parsed(post(client, "/v1/compare", *images, **options), CompareReply).compare
        texts = figure_texts(client, "/v1/compare", *images, **options)
        said = " | ".join(texts)
        for side in (found.first, found.second):
            assert f"{side.target.label}, {side.target.score}" in said
            assert f"{found.method} at {side.layer}" in texts
        assert texts.count(number(found.maps.reach)) >= 2
        assert own_scale(found.maps.difference) in said
        assert ("What the gates changed most" in texts) == bool(found.gates)


def test_a_what_if_has_both_predictions_and_the_edit(client: httpx.Client, cat: bytes) -> None:
    edit = {"gate": "blocks.15.gate", "mute": "3,12", "rank": True}
    found = present(explained(client, "/v1/what-if", cat, **edit).what_if)
    texts = figure_texts(client, "/v1/what-if", cat, **edit)
    assert any("blocks.15.gate: channels 3, 12 muted" in text for text in texts)
    for prediction in (*found.before, *found.after):
        assert {prediction.label, prediction.score} <= {*texts}
    most = present(found.ranking).most[0]
    assert {f"channel {most.channel}", number(most.muted)} <= {*texts}
    maps = found.targets[0].maps
    assert texts.count(number(maps.reach)) >= 2
    assert own_scale(maps.difference) in " | ".join(texts)


def own_scale(difference: MapOnScale) -> str:
    """A difference is often small beside its maps."""
    return f"scale of its own, \N{PLUS-MINUS SIGN}{number(max(abs(difference.raw.min), abs(difference.raw.max)))}"


def test_the_colour_of_no_difference_is_that_of_the_scales_middle(client: httpx.Client, cat: bytes) -> None:
    for theme in ("light", "dark"):
        response = post(client, "/v1/compare", cat, cat, accept="image/png", theme=theme)  # equal
        page = decoded_bytes(response.content, "image/png")
        rows = np.flatnonzero((page[:, 926] == 0xDD).all(-1))  # the panel, and below it the bar
        assert len(rows) > 200
        assert (np.diff(rows) > 1).sum() == 1


def test_no_two_texts_of_a_line_overlap(client: httpx.Client, cat: bytes) -> None:
    """Each has its width, whatever the reader's font, and the scale of a narrow picture has room for its numbers."""
    tall = encoded(decoded_bytes(cat, "image/jpeg")[:, 150:240])
    options = {"layer": "head", "mute": "254,795", "rank": True}
    response = post(client, "/v1/what-if", tall, accept=SVG, **options)
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in ElementTree.fromstring(response.content).iter("{http://www.w3.org/2000/svg}text"):
        width = float(each.attrib["textLength"])
        share = {"middle": 0.5, "end": 1.0}.get(each.get("text-anchor", ""), 0.0)
        left = float(each.attrib["x"]) - share * width
        lines.setdefault(each.attrib["y"], []).append((left, left + width))
    assert max(map(len, lines.values())) >= 4
    for line in lines.values():
        ends = sorted(line)
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(ends))


@pytest.mark.parametrize(
    ("images", "options", "status", "slug"),
    [
        (2, {}, 406, "not-acceptable"),
        (1, {"target": list(range(13))}, 422, "invalid-option"),
        (1, {"include": "predictions,feature_maps"}, 422, "invalid-option"),
        (1, {"atlas": True}, 422, "invalid-option"),
        (1, {"provenance": True}, 422, "invalid-option"),
    ],
)
def test_what_no_figure_can_show_is_refused(
    client: httpx.Client, cat: bytes, images: int, options: dict[str, Any], status: int, slug: str
) -> None:
    problem(post(client, "/v1/explain", *[cat] * images, accept=SVG, **options), status, slug)


def test_letters_that_the_font_lacks_are_no_boxes() -> None:
    assert typeface.drawable("chat \N{MULTIPLICATION SIGN} \u00e9 \u732b") == "chat \N{MULTIPLICATION SIGN} \u00e9 ?"
