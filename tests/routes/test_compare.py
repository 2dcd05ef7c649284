"""`/v1/compare`: two sides, their maps on one scale, and what differs, second less first."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pellucid.errors import DeadlineExceeded
from pellucid.parts.figures.side_by_side import common, over
from pellucid.schemas import CompareReply, Comparison
from pellucid.types import Floats
from service.flow.one_pass import together
from service.http.openapi import examples
from tests.flow.stub import BLACK, running
from tests.support import decoded, difference, explained, parsed, photograph, post, problem


def compared(client: httpx.Client, *images: bytes, **options: Any) -> Comparison:
    response = post(client, "/v1/compare", *images, **{"max_side": 64, **options})
    reply = parsed(response, CompareReply)
    assert reply.request_id == response.headers["x-request-id"]
    assert reply.model == reply.compare.first.model
    return reply.compare


def raws(found: Comparison) -> list[Floats]:
    maps = found.maps
    return [np.array(each.raw.values, np.float32) for each in (maps.first, maps.second, maps.difference)]


def test_a_picture_does_not_differ_from_itself(client: httpx.Client, cat: bytes) -> None:
    found = compared(client, cat, cat)
    first, second, difference = raws(found)
    scale = float(np.abs(first).max())
    np.testing.assert_allclose(difference, 0, atol=1e-4 * scale)  # a batch of two may sum in another order
    np.testing.assert_allclose(first, second, atol=1e-4 * scale)
    assert found.maps.rank_agreement == pytest.approx(1, abs=1e-3)
    assert found.first.predictions[0].label == found.second.predictions[0].label
    assert len(found.gates) == 7
    assert all(gate.mean_absolute < 1e-4 for gate in found.gates)


def test_the_other_way_round_every_difference_has_the_other_sign(
    client: httpx.Client, cat: bytes, coffee: bytes
) -> None:
    there, back = (compared(client, *images, target="espresso") for images in ((cat, coffee), (coffee, cat)))
    np.testing.assert_allclose(raws(there)[2], -raws(back)[2], atol=1e-4 * there.maps.reach)
    assert np.abs(raws(there)[2]).max() > 0.1 * there.maps.reach
    for one, other in zip(there.gates, back.gates, strict=True):
        np.testing.assert_allclose(one.differences, -np.array(other.differences), atol=1e-4)
        assert one.mean_absolute == pytest.approx(np.abs(one.differences).mean(), rel=1e-4)
        most = one.most_changed[0]
        assert abs(most.difference) == pytest.approx(np.abs(one.differences).max())
        assert most.second - most.first == pytest.approx(most.difference, abs=1e-5)


def test_two_pictures_meet_in_the_networks_input(client: httpx.Client, cat: bytes, coffee: bytes) -> None:
    found = compared(client, cat, coffee, max_side=1024)
    assert (found.kind, found.maps.frame, found.maps.box) == ("pictures", "input", [0, 0, 224, 224])
    assert found.first.box != found.second.box
    for side, image in ((found.first, cat), (found.second, coffee)):
        (alone,) = explained(client, "/v1/grad-cam", image).grad_cam or []
        assert side.box == alone.box
    # Unless a class is named, it is the first picture's.
    assert found.first.target.index == found.second.target.index == found.first.predictions[0].index
    assert decoded(found.maps.difference.mask).shape == (224, 224)


def test_two_classes_are_what_grad_cam_says_of_each(client: httpx.Client, cat: bytes) -> None:
    classes = ["Egyptian cat", "tabby"]
    found = compared(client, cat, target=classes, layer="blocks.10", method="hirescam")
    cams = explained(client, "/v1/grad-cam", cat, target=classes, layer="blocks.10", method="hirescam").grad_cam or []
    scale = found.maps.reach
    for raw, side, cam in zip(raws(found), (found.first, found.second), cams, strict=False):
        np.testing.assert_allclose(raw, cam.raw.values, atol=1e-4 * scale)
        assert (side.target.label, side.layer) == (cam.target.label, "blocks.10")
        assert found.maps.box == side.box == cam.box
    first, second, difference = raws(found)
    np.testing.assert_allclose(second - first, difference, atol=1e-5 * scale)
    assert (found.kind, found.maps.frame, found.gates) == ("classes", "picture", [])


def test_the_difference_is_red_where_the_second_has_more_and_blue_where_the_first_has(
    client: httpx.Client, cat: bytes
) -> None:
    classes = ["goldfish", "Egyptian cat"]
    for order, hotter, colder, sign in ((classes, 0, 2, 1), (classes[::-1], 2, 0, -1)):
        found = compared(client, cat, target=order)
        strong = sign * (decoded(found.maps.difference.mask).astype(int) - 128) > 20
        colours = np.array(found.maps.picture.to_pil().convert("RGB")).astype(int)
        assert strong.any()
        assert (colours[strong][:, hotter] > colours[strong][:, colder]).all()


def test_two_networks_each_see_the_picture(client: httpx.Client, cat: bytes) -> None:
    found = compared(client, cat, against_model="lite0-plain", target="tabby")
    assert (found.kind, found.first.model, found.second.model) == ("models", "lite0", "lite0-plain")
    for side, raw in zip((found.first, found.second), raws(found), strict=False):
        alone = explained(client, "/v1/explain", cat, model=side.model, target="tabby", include="predictions,grad_cam")
        assert alone.grad_cam is not None
        assert alone.predictions is not None
        np.testing.assert_allclose(raw, alone.grad_cam[0].raw.values, atol=1e-4 * found.maps.reach)
        assert [each.index for each in side.predictions] == [each.index for each in alone.predictions]
    assert found.gates == []  # the plain one has none


def test_a_map_over_a_part_of_its_box_keeps_its_place() -> None:
    slope = np.tile(np.arange(8, dtype=np.float32), (8, 1))  # its value at a centre is 8 * fraction - 0.5
    shared = common((0, 0, 80, 80), (20, 10, 100, 60))
    assert shared == (20, 10, 80, 60)
    centres = 0.25 + 0.75 * (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(over(slope, (0, 0, 80, 80), shared), np.tile(np.minimum(8 * centres - 0.5, 7), (8, 1)))
    np.testing.assert_array_equal(over(slope, (0, 0, 80, 80), (0, 0, 80, 80)), slope)


ALLOWED = "Allowed are one image and two `target`"


@pytest.mark.parametrize(
    ("images", "options", "slug", "said"),
    [
        (1, {}, "invalid-option", ALLOWED),
        (3, {}, "invalid-option", ALLOWED),
        (2, {"target": ["tabby", "lynx"]}, "invalid-option", ALLOWED),
        (2, {"against_model": "lite0-plain"}, "invalid-option", ALLOWED),
        (1, {"target": ["tabby", "281"]}, "invalid-option", "Both name the class 281 (tabby)"),
        (1, {"target": ["1", "2", "3"]}, "invalid-option", "at most 2"),
        (1, {"against_model": "lite0"}, "invalid-option", "is the first network already"),
        (1, {"against_model": "lite9"}, "unknown-name", "lite0-plain"),
        (1, {"against_model": "lite0-plain", "against_layer": "haed"}, "unknown-name", "The second network: "),
        (1, {"against_model": "lite0-plain", "layer": "haed"}, "unknown-name", "The first network: "),
        (2, {"against_layer": "head"}, "invalid-option", "It needs `against_model`"),
        (2, {"method": "grad-kam"}, "unknown-name", "grad-cam"),
        (2, {"method": " "}, "invalid-option", "method: Should be one name"),
        (2, {"provenance": True}, "invalid-option", "Ask /v1/grad-cam for each side"),
    ],
)
def test_what_can_not_be_compared_is_told(
    client: httpx.Client, cat: bytes, images: int, options: dict[str, Any], slug: str, said: str
) -> None:
    assert said in problem(post(client, "/v1/compare", *[cat] * images, **options), 422, slug).detail


def test_an_error_says_which_picture_it_is_of(client: httpx.Client, cat: bytes) -> None:
    response = post(client, "/v1/compare", cat, cat[:200], target="tabby")
    assert problem(response, response.status_code, "undecodable-image").detail.startswith("The second picture: ")


def test_both_sides_count_at_the_door_until_the_deadline() -> None:
    async def scene() -> httpx.Response:
        async with running() as stub:
            files = [("images", ("black.png", BLACK))] * 2
            query = {"target": "dark", "timeout_ms": "300"}
            asked = asyncio.create_task(stub.client.post("/v1/compare", files=files, params=query))
            await stub.until(in_flight=2)
            answer = await asked
            assert stub.service.admission.in_flight == 0
            return answer

    problem(asyncio.run(scene()), 504, "deadline-exceeded")


def test_when_one_side_fails_nobody_waits_for_the_other() -> None:
    async def scene() -> httpx.Response:
        async with running() as stub:  # whose engine never answers
            files = [("images", ("no-picture", b"nothing")), ("images", ("black.png", BLACK))]
            answer = await stub.client.post("/v1/compare", files=files, params={"target": "dark"})
            assert stub.service.admission.in_flight == 0
            return answer

    refused = asyncio.run(scene())
    assert problem(refused, 415, "unsupported-media-type").detail.startswith("The first picture: ")


def test_each_network_has_its_own_times(client: httpx.Client, cat: bytes) -> None:
    def counted() -> dict[str, float]:
        return {
            model: sum(
                sample.value
                for family in text_string_to_metric_families(client.get("/metrics").text)
                for sample in family.samples
                if sample.name == "pellucid_stage_seconds_count" and sample.labels == {"model": model, "stage": "infer"}
            )
            for model in ("lite0", "lite0-plain")
        }

    before = counted()
    compared(client, cat, against_model="lite0-plain", target="tabby")
    assert counted() == {model: count + 1 for model, count in before.items()}


def test_what_is_stopped_has_ended_before_the_error_is_raised() -> None:
    ended = []

    async def fails() -> None:
        raise DeadlineExceeded("Too late.")

    async def stopped() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # an end that takes a turn of the loop
            ended.append(True)

    async def scene() -> None:
        await together(stopped(), fails())

    with pytest.raises(DeadlineExceeded) as raised:
        asyncio.run(scene())
    assert ended == [True]
    assert raised.value.detail == "Too late."


def test_the_recorded_example_is_what_the_service_answers(client: httpx.Client) -> None:
    recorded = copy.deepcopy(examples()["/v1/compare"])
    CompareReply.model_validate(recorded["reply"])
    answer = post(client, "/v1/compare", photograph("cat"), **recorded["query"]).json()
    for found in (answer, recorded["reply"]):
        for side in ("first", "second"):
            del found["compare"][side]["image"]["filename"]
    assert difference(recorded["reply"]["compare"], answer["compare"]) is None


@pytest.mark.parametrize("option", ["method", "layer", "against_layer"])
def test_several_names_in_one_are_refused(client: httpx.Client, cat: bytes, option: str) -> None:
    response = post(client, "/v1/compare", cat, cat, **{option: "grad-cam,hirescam"})
    assert "one name" in problem(response, 422, "invalid-option").detail
