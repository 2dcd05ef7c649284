"""POST /v1/grad-cam: where the evidence for a class lies."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from pellucid.render import compose
from pellucid.schemas import GradCam, ModelDetail
from pellucid.types import Pixels
from tests.support import decoded, decoded_bytes, encoded, explained, parsed, photograph

FACE = (slice(60, 275), slice(130, 350))  # rows and columns of the cat's face in its photograph


def _cams(client: httpx.Client, image: bytes, **options: Any) -> list[GradCam]:
    cams = explained(client, "/v1/grad-cam", image, **options).grad_cam
    assert cams is not None
    return cams


def _cam(client: httpx.Client, image: bytes, **options: Any) -> GradCam:
    (cam,) = _cams(client, image, **options)
    return cam


def _on_photograph(cam: GradCam, width: int, height: int) -> Pixels:
    """The mask where its box says, on an empty picture of the photograph's size."""
    x0, y0, x1, y1 = cam.box
    canvas = np.zeros((height, width), np.uint8)
    canvas[y0:y1, x0:x1] = decoded(cam.mask)
    return canvas


def _peak(values: Any) -> tuple[int, int]:
    row, column = np.unravel_index(np.argmax(values), np.shape(values))
    return int(row), int(column)


@pytest.fixture(scope="module")
def scene() -> bytes:
    """The cat's face on the left and the espresso on the right, on grey."""
    canvas = Image.new("RGB", (600, 600), (124, 116, 104))
    for name, box, place in (("cat", (94, 19, 357, 282), (0, 150)), ("coffee", (100, 0, 500, 400), (300, 150))):
        with Image.open(io.BytesIO(photograph(name))) as image:
            canvas.paste(image.convert("RGB").resize((300, 300), box=box), place)
    return encoded(np.asarray(canvas))


@pytest.mark.parametrize(("name", "width", "height"), [("cat", 451, 300), ("coffee", 600, 400), ("rocket", 640, 427)])
def test_the_mask_is_as_large_as_its_box_and_the_box_lies_in_the_photograph(
    client: httpx.Client, name: str, width: int, height: int
) -> None:
    cam = _cam(client, photograph(name))
    mask = decoded(cam.mask)
    x0, y0, x1, y1 = cam.box
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert mask.shape == (y1 - y0, x1 - x0)
    assert mask.dtype == np.uint8
    assert (mask.min(), mask.max()) == (0, 255)


@pytest.mark.parametrize(("width", "height"), [(451, 300), (300, 451), (224, 224), (1000, 40), (40, 1000), (7, 5)])
def test_the_box_is_the_centre_that_the_network_sees(client: httpx.Client, width: int, height: int) -> None:
    """Short side to 256, centre crop of 224: 7/8 of the short side, as far as whole pixels go."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    x0, y0, x1, y1 = _cam(client, encoded(noise)).box
    side = min(width, height) * 224 / 256
    assert [x1 - x0, y1 - y0] == pytest.approx([side, side], abs=1.5)
    assert (x0 + x1) / 2 == pytest.approx(width / 2, abs=2 + width / 256)
    assert (y0 + y1) / 2 == pytest.approx(height / 2, abs=2 + height / 256)


def test_the_mask_lies_on_the_cat(client: httpx.Client, cat: bytes) -> None:
    cam = _cam(client, cat)
    x0, y0, x1, y1 = cam.box
    face = np.zeros((300, 451), bool)
    face[FACE] = True
    seen = np.zeros((300, 451), bool)
    seen[y0:y1, x0:x1] = True
    mask = _on_photograph(cam, 451, 300)
    assert cam.target.label == "Egyptian cat"
    assert mask[face & seen].mean() > 1.5 * mask[seen & ~face].mean()
    assert face[_peak(mask)]


def test_each_of_two_things_in_one_picture_is_found_where_it_is(client: httpx.Client, scene: bytes) -> None:
    cat, espresso = (_on_photograph(cam, 600, 600) for cam in _cams(client, scene, target=["tabby", "espresso"]))
    assert cat[:, :300].mean() > 3 * cat[:, 300:].mean()
    assert espresso[:, 300:].mean() > 3 * espresso[:, :300].mean()


def test_a_photograph_held_upright_by_exif_is_explained_upright(client: httpx.Client, cat: bytes) -> None:
    with Image.open(io.BytesIO(cat)) as image:
        lying = image.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    file = io.BytesIO()
    lying.save(file, "JPEG", quality=95, exif=exif)
    turned = explained(client, "/v1/grad-cam", file.getvalue(), target="285")
    assert turned.grad_cam is not None
    assert (turned.image.width, turned.image.height) == (451, 300)
    straight, upright = _on_photograph(_cam(client, cat, target="285"), 451, 300), turned.grad_cam[0]
    assert np.abs(_on_photograph(upright, 451, 300).astype(int) - straight).mean() < 10


def test_by_default_the_top_class_is_explained(client: httpx.Client, cat: bytes) -> None:
    best = explained(client, "/v1/predict", cat).predictions
    assert best is not None
    target = _cam(client, cat).target
    assert (target.index, target.label) == (best[0].index, best[0].label)
    assert target.probability == pytest.approx(best[0].probability, rel=1e-3)


def test_targets_by_index_and_by_label_come_in_the_order_asked_for(client: httpx.Client, cat: bytes) -> None:
    cams = _cams(client, cat, target=["tabby", "285", "TIGER CAT", "967"])
    assert [cam.target.index for cam in cams] == [281, 285, 282, 967]
    assert [cam.target.label for cam in cams] == ["tabby", "Egyptian cat", "tiger cat", "espresso"]


def test_a_target_is_explained_the_same_alone_and_among_others(client: httpx.Client, cat: bytes) -> None:
    for layer in ("head", "blocks.10"):
        together = _cams(client, cat, layer=layer, target=["281", "967", "285"])
        for cam in together:
            alone = _cam(client, cat, layer=layer, target=str(cam.target.index))
            assert np.allclose(cam.raw.values, alone.raw.values, rtol=1e-3, atol=1e-4)


def test_one_class_by_two_names_is_explained_once(client: httpx.Client, cat: bytes) -> None:
    assert [cam.target.index for cam in _cams(client, cat, target=["285", "Egyptian cat"])] == [285]


@pytest.mark.parametrize("layer", ["blocks.2", "blocks.4", "blocks.10", "blocks.15", "head"])
def test_a_layer_by_name_gives_a_map_of_its_own_size(client: httpx.Client, cat: bytes, layer: str) -> None:
    model = parsed(client.get("/v1/models/lite0"), ModelDetail)
    (shape,) = [entry.shape for entry in model.layers if entry.name == layer]
    cam = _cam(client, cat, layer=layer)
    assert cam.layer == layer
    assert cam.raw.shape == shape[1:] == list(np.shape(cam.raw.values))
    assert decoded(cam.mask).shape == (262, 263)


def test_the_default_layer_and_method_are_the_catalogues(client: httpx.Client, cat: bytes) -> None:
    model = parsed(client.get("/v1/models/lite0"), ModelDetail)
    cam = _cam(client, cat)
    assert cam.layer == model.default_layer.name
    assert cam.method == model.methods[0] == "grad-cam"


@pytest.mark.parametrize("target", ["285", "967", "0"])
def test_the_raw_range_is_that_of_the_raw_map(client: httpx.Client, cat: bytes, target: str) -> None:
    raw = _cam(client, cat, target=target).raw
    assert raw.min == pytest.approx(np.min(raw.values), rel=1e-6)
    assert raw.max == pytest.approx(np.max(raw.values), rel=1e-6)
    assert raw.all_negative == (np.max(raw.values) <= 0)


def test_the_brightest_spot_of_the_mask_is_the_peak_of_the_raw_map(client: httpx.Client, cat: bytes) -> None:
    cam = _cam(client, cat)
    mask = decoded(cam.mask)
    row, column = _peak(mask)
    cell = (row * 7 // mask.shape[0], column * 7 // mask.shape[1])
    assert cell == _peak(cam.raw.values)


def test_no_evidence_for_a_class_is_an_empty_mask_and_said_so(client: httpx.Client, coffee: bytes) -> None:
    cams = [
        cam
        for first in range(0, 200, 20)
        for cam in _cams(client, coffee, model="lite0-plain", target=_indices(first), max_side=8)
    ]
    without = [cam for cam in cams if cam.raw.all_negative]
    assert without, "none of 200 classes is without evidence: choose others"
    assert all(decoded(cam.mask).max() == 0 for cam in without)
    assert all(decoded(cam.mask).max() == 255 for cam in cams if not cam.raw.all_negative)


def _indices(first: int) -> list[str]:
    return [str(index) for index in range(first, first + 20)]


def test_signed_keeps_evidence_against_the_class(client: httpx.Client, cat: bytes) -> None:
    cam = _cam(client, cat, target="espresso", signed=True)
    mask = decoded(cam.mask).astype(int) - 128
    assert cam.raw.min < 0 < cam.raw.max
    assert np.abs(mask).max() == 127
    assert np.sign(mask[_cell(mask, cam.raw.values, np.argmin)]) == -1
    assert np.sign(mask[_cell(mask, cam.raw.values, np.argmax)]) == 1
    unsigned = decoded(_cam(client, cat, target="espresso").mask)
    assert unsigned[mask < 0].mean() < unsigned[mask > 0].mean()


def _cell(mask: Any, values: Any, which: Any) -> tuple[int, int]:
    """The middle of the cell of the mask in which a raw map has its extreme."""
    (height, width), (rows, columns) = mask.shape, np.shape(values)
    row, column = np.unravel_index(which(values), (rows, columns))
    return int((row + 0.5) * height / rows), int((column + 0.5) * width / columns)


def test_an_overlay_comes_on_request_alone(client: httpx.Client, cat: bytes) -> None:
    assert _cam(client, cat).overlay is None


@pytest.mark.parametrize(("name", "size"), [("cat", (300, 451)), ("rocket", (427, 640))])
def test_an_overlay_shows_the_whole_photograph(client: httpx.Client, name: str, size: tuple[int, int]) -> None:
    overlay = _cam(client, photograph(name), overlay=True).overlay
    assert overlay is not None
    assert decoded(overlay).shape == (*size, 3)


def test_an_overlay_without_colour_is_the_photograph_inside_the_box_and_dimmer_outside(
    client: httpx.Client, cat: bytes
) -> None:
    cam = _cam(client, cat, overlay=True, alpha=0)
    assert cam.overlay is not None
    overlay, source = decoded(cam.overlay), decoded_bytes(cat, "image/jpeg")
    x0, y0, x1, y1 = cam.box
    assert np.array_equal(overlay[y0:y1, x0:x1], source[y0:y1, x0:x1])
    outside = np.ones((300, 451), bool)
    outside[y0:y1, x0:x1] = False
    assert (overlay[outside] <= source[outside]).all()
    assert overlay[outside].mean() < 0.6 * source[outside].mean()


def test_an_overlay_at_full_opacity_is_the_mask_in_colour_where_there_is_evidence(
    client: httpx.Client, cat: bytes
) -> None:
    cam = _cam(client, cat, overlay=True, alpha=1, colormap="gray")
    assert cam.overlay is not None
    x0, y0, x1, y1 = cam.box
    inside, mask = decoded(cam.overlay)[y0:y1, x0:x1].astype(int), decoded(cam.mask)
    source = decoded_bytes(cat, "image/jpeg")[y0:y1, x0:x1].astype(int)
    assert np.array_equal(inside[mask == 0], source[mask == 0])
    # The mask is bilinear, the overlay smooth: they agree at the centres of the cells.
    rows, columns = (((np.arange(7) + 0.5) * side / 7).astype(int) for side in mask.shape)
    centres = np.ix_(rows, columns)
    strong = mask[centres] > 0.9 * 255
    assert strong.any()
    colours = compose.tints("gray", False)[mask[centres]]
    assert (colours[strong, 3] == 255).all()
    assert np.abs(inside[centres] - colours[..., :3])[strong].max() <= 12


def test_small_pictures_are_enlarged_to_min_side_and_no_further_than_max_side(client: httpx.Client, cat: bytes) -> None:
    for options, mask, overlay in (
        ({}, 263, 451),
        ({"min_side": 600}, 600, 600),
        ({"min_side": 300}, 300, 451),
        ({"min_side": 600, "max_side": 400}, 400, 400),
    ):
        cam = _cam(client, cat, overlay=True, **options)
        assert cam.overlay is not None
        assert (max(decoded(cam.mask).shape), max(decoded(cam.overlay).shape)) == (mask, overlay)
        assert (cam.overlay.width, cam.mask.width) == (overlay, mask)
        assert cam.box == [94, 19, 357, 281]


@pytest.mark.parametrize(("signed", "blank"), [(False, 0), (True, 128)])
def test_a_mask_can_cover_the_whole_photograph(client: httpx.Client, cat: bytes, signed: bool, blank: int) -> None:
    cam, whole = (_cam(client, cat, signed=signed, fit=fit) for fit in ("box", "source"))
    x0, y0, x1, y1 = cam.box
    expected = np.full((300, 451), blank, np.uint8)
    expected[y0:y1, x0:x1] = decoded(cam.mask)
    assert np.array_equal(decoded(whole.mask), expected)
    assert (whole.box, whole.raw) == (cam.box, cam.raw)
    small = _cam(client, cat, signed=signed, fit="source", overlay=True, max_side=100)
    assert small.overlay
    assert decoded(small.mask).shape == decoded(small.overlay).shape[:2] == (67, 100)
    assert decoded(small.mask)[0, 0] == blank


@pytest.mark.parametrize("max_side", [8, 100, 263, 4096])
def test_max_side_bounds_mask_and_overlay_and_enlarges_neither(client: httpx.Client, cat: bytes, max_side: int) -> None:
    cam = _cam(client, cat, overlay=True, max_side=max_side)
    assert cam.overlay is not None
    assert max(decoded(cam.mask).shape) == min(max_side, 263)
    assert max(decoded(cam.overlay).shape) == min(max_side, 451)
    assert cam.box == [94, 19, 357, 281]
