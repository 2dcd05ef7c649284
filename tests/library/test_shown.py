"""Answers in a notebook: a short repr, a block of HTML, a figure; and all that a notebook has as a picture."""

from __future__ import annotations

import asyncio
import io
import pickle
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import torch
from PIL import Image

import pellucid
from pellucid import AsyncClient, Client, Network, schemas
from pellucid.client import Figure
from pellucid.client.heat_maps import read_npz
from pellucid.schemas import GradCam, Picture, Schema, SideBySide
from pellucid.schemas.html import block
from tests.support import SAMPLES

CAT, COFFEE = SAMPLES / "cat.jpg", SAMPLES / "coffee.jpg"
LONG = "\"'><img onerror=alert(1)>" * 100
GREY = Picture.small(Image.new("L", (8, 8), 128), 8, "image/png")
KINDS = [each for each in vars(schemas).values() if isinstance(each, type) and issubclass(each, Schema)]


@pytest.fixture(scope="module")
def asked(server: str) -> Iterator[Client]:
    with Client(server, timeout_s=200) as client:
        yield client


def filled(annotation: Any, many: int = 50, absent: str = "") -> Any:
    """A value of that type, as large as replies have them and larger. No part has the optional field ``absent``."""
    kind, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Picture:
        return GREY
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        fields = annotation.model_fields.items()
        values = {name: None if name == absent else filled(field.annotation, many, absent) for name, field in fields}
        return annotation.model_construct(**values)
    if kind is Annotated:
        return filled(arguments[0], many, absent)
    if kind in (Union, UnionType):
        return filled(next(each for each in arguments if each is not NoneType), many, absent)
    if kind is Literal:
        return arguments[0]
    if kind is list:
        return [filled(arguments[0], many, absent)] * many
    if kind is dict:
        return {f"{key}{LONG}": filled(arguments[1], many, absent) for key in range(many)}
    return {str: LONG, int: 10**9, float: 1 / 3, bool: True}.get(annotation, LONG)


class Reader(HTMLParser):
    """Which attributes the pictures of a block have."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.pictures: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pictures += [dict(attrs)] * (tag == "img")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_part_of_a_reply_has_a_short_repr_and_escaped_html(kind: type[Schema]) -> None:
    assert len(repr(filled(kind))) < 6000
    for absent in ("", "overlay", "similarity"):  # what would hide the mask, and the value with its unit
        answer = filled(kind, 4, absent)
        for html in (answer._repr_html_() or "", block([answer, answer])):
            assert all(each.keys() == {"width", "alt", "src"} for each in Reader(html).pictures)


def test_what_a_label_says_changes_no_colour() -> None:
    def sources(label: str) -> list[str | None]:
        cam = filled(GradCam).model_copy(update={"overlay": None, "target": schemas.Target(index=0, label=label)})
        return [each["src"] for each in Reader(block([cam])).pictures]

    assert sources("second temperature difference") == sources("tabby")
    first, second, difference = (each["src"] for each in Reader(block(filled(SideBySide))).pictures)
    assert first == second == sources("tabby")[0] != difference


def test_no_base64_is_in_the_repr_of_an_answer_and_the_photograph_is_in_its_html(lite0: Network, asked: Client) -> None:
    for network in (lite0, asked):
        answer = network.explain(CAT, overlay=True, count=4, tile=28)
        assert repr(answer).startswith("Result(image=cat.jpg, 451 x 300 pixels, predictions=[Egyptian cat ")
        for each in (answer, network.grad_cam(CAT), network.what_if(CAT, mute=[1]), network.compare(CAT, COFFEE)):
            assert "iVBOR" not in repr(each)
            html = each._repr_html_() or ""
            assert html.count('src="data:image/jpeg;base64,') >= 2
            assert 'photograph"' in html
            assert len(html) < 200_000
        assert "blocks.15.gate" in (answer._repr_html_() or "")


def test_a_photograph_that_has_changed_is_not_shown(lite0: Network, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(CAT.read_bytes())
    answer = lite0.predict(path)
    assert 'photograph"' in (answer._repr_html_() or "")
    path.write_bytes(COFFEE.read_bytes())
    assert 'photograph"' not in (answer._repr_html_() or "")
    with pytest.raises(ValueError, match="has changed since this answer"):
        answer.figure()


def test_an_answer_draws_the_figure_of_its_request(lite0: Network, asked: Client, tmp_path: Path) -> None:
    svg: dict[str, Any] = {"media_type": "image/svg+xml"}
    for network in (lite0, asked):
        drawn = network.grad_cam(CAT, target="tabby", layer="blocks.10").figure(tmp_path / "cat.svg", theme="dark")
        expected = network.figure(
            CAT, target="tabby", layer="blocks.10", include=["predictions", "grad_cam"], theme="dark", **svg
        )
        assert drawn == expected
        assert (tmp_path / "cat.svg").read_bytes() == bytes(expected)
    compared = lite0.compare(CAT, COFFEE.read_bytes(), max_side=64)
    assert bytes(compared.figure(**svg)).count(b"<image") > 3
    with pytest.raises(ValueError, match="has no figure: only answers of predict"):
        lite0.feature_maps(CAT, layers="stem").figure()
    with pytest.raises(ValueError, match=r"suffix .png, .webp, .svg, not .*\.pdf"):
        compared.figure("cat.pdf")


def test_the_request_behind_an_answer_does_not_count_in_it(lite0: Network) -> None:
    answer = lite0.predict(CAT)
    copied = pickle.loads(pickle.dumps(answer))
    assert copied == answer == [*answer]
    assert copied[0] == answer[0].model_copy()


def test_await_and_plain_calls_work_inside_an_event_loop(lite0: Network, server: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncClient(server, timeout_s=200) as client:
            there = await client.explain(CAT, include="predictions")
            figure = await there.figure(tmp_path / "cat.png")
            assert (tmp_path / "cat.png").read_bytes() == bytes(figure)
            with Client(server, timeout_s=200) as plain:
                assert plain.explain(CAT, include="predictions") == there
            assert lite0.explain(CAT, include="predictions").predictions is not None
        for answer in (there, plain):
            with pytest.raises(ValueError, match="the client is closed: draw figures before its `with` ends"):
                await there.figure() if answer is there else plain.figure(CAT)

    asyncio.run(run())


def test_answers_keep_the_bytes_of_the_latest_pictures_only(lite0: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pellucid.schemas.shown.MOST_SENT", 400_000)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), np.uint8)  # 150 kB each
    found = [lite0.predict(each) for each in pixels]
    assert ['photograph"' in (each._repr_html_() or "") for each in found] == [False] * 4 + [True] * 2
    with pytest.raises(ValueError, match="its bytes are no longer kept"):
        found[0].figure()


def test_a_picture_has_every_form(lite0: Network, asked: Client, tmp_path: Path) -> None:
    (cam,) = lite0.grad_cam(CAT, overlay=True)
    assert cam.overlay is not None
    maps = lite0.heat_maps(CAT, target=[281, 285])
    plot = asked.picture("attention", CAT, effects=False, media_type="image/webp")
    for picture, shape in (
        (cam.mask, (262, 263)),
        (cam.overlay, (300, 451, 3)),
        (plot, np.asarray(plot.to_pil()).shape),
    ):
        assert isinstance(picture, (Picture, Figure))
        assert picture.to_numpy().shape == shape
        assert (picture._repr_png_() or b"").startswith(b"\x89PNG")
        for name, form in (("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.webp", "WEBP")):
            picture.save(tmp_path / name)
            with Image.open(tmp_path / name) as saved:
                assert saved.format == form
    assert str(plot) == f"<Figure, image/webp, {len(bytes(plot))} bytes>"
    assert maps.to_numpy() is maps.heat
    maps.save(tmp_path / "maps.npz")
    maps.save(tmp_path / "maps.png")
    assert np.array_equal(read_npz((tmp_path / "maps.npz").read_bytes()).heat, maps.heat)
    with Image.open(tmp_path / "maps.png") as saved:
        assert (saved.format, saved.size) == ("PNG", maps.to_pil().size)
    assert (maps.to_pil().size, len(repr(maps)) < 100) == ((392, 191), True)
    drawing = lite0.figure(CAT, include=["predictions"], media_type="image/svg+xml")
    assert (drawing._repr_svg_() or "").startswith("<svg")
    assert drawing._repr_png_() is None
    with pytest.raises(ValueError, match="an SVG has no pixels"):
        drawing.to_pil()


def test_an_image_may_be_whatever_a_notebook_has(lite0: Network) -> None:
    pixels = np.array(Image.open(CAT).convert("RGB"))
    tensor = torch.from_numpy(pixels)
    scaled = (tensor.permute(2, 0, 1) / 255).requires_grad_()
    forms: list[Any] = [pixels.transpose(2, 0, 1), pixels / 255, tensor, tensor.permute(2, 0, 1), scaled]
    forms += [Image.fromarray(pixels), np.dstack((pixels, np.full_like(pixels[:, :, :1], 255)))]
    expected = lite0.predict(pixels)
    for form in forms:
        assert lite0.predict(form) == expected
    assert lite0.predict((tensor / 255).bfloat16())[0].label == expected[0].label
    assert lite0.predict(tensor[:, :, :1].permute(2, 0, 1)) == lite0.predict(pixels[:, :, 0])
    file = io.BytesIO(CAT.read_bytes())
    assert lite0.predict(file) == lite0.predict(file) == lite0.predict(CAT)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (torch.zeros(3, 3, 3, dtype=torch.uint8), r"shape \[3, 3, 3\] can be \[channels, height, width\] or \[height"),
        (
            torch.zeros(2, 3, 8, 8),
            r"not float32 \[2, 3, 8, 8\]: pass the pictures of a batch one by one, as batch\[0\]",
        ),
        (torch.full((3, 8, 9), 1.5), "numbers of float32 from 1.5 to 1.5.*or floats from 0 to 1"),
        (torch.full((3, 8, 9), -0.5), "numbers of float32 from -0.5 to -0.5.*before any normalisation"),
        (torch.full((3, 8, 9), float("nan")), "numbers of float32 from nan to nan"),
        (io.StringIO("cat"), "opened as text"),
        (CAT.open(encoding="utf-8"), "opened as text"),
        ([CAT, COFFEE], "for several, call it for each, or `explain_many`"),
    ],
)
def test_what_could_be_two_images_or_none_is_refused_in_a_sentence(lite0: Network, image: Any, told: str) -> None:
    with pytest.raises(pellucid.PellucidError, match=told):
        lite0.predict(image)
