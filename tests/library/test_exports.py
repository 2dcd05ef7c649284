"""Heat maps for other tools: pycocotools reads the masks that overlays outline, and FiftyOne the maps."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from pycocotools import mask as rle
from pycocotools.coco import COCO

from pellucid import Network
from pellucid.exports import to_coco, to_fiftyone
from pellucid.schemas import GradCam, Result
from tests.support import SAMPLES, decoded

CAT = SAMPLES / "cat.jpg"
# pycocotools is behind numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def cat(lite0: Network) -> Result:
    return lite0.explain(CAT, view="whole", include=["predictions", "grad_cam"])


def read(found: dict[str, Any], folder: Path) -> COCO:
    file = folder / "coco.json"
    file.write_text(json.dumps(found))
    return COCO(str(file))


def drawn(cat: Result, heat: np.ndarray[Any, Any], box: list[int], size: tuple[int, int]) -> Result:
    """The answer with another map, box and size of the photograph."""
    assert cat.grad_cam
    raw = cat.grad_cam[0].raw.model_copy(update={"values": heat.tolist()})
    cam = cat.grad_cam[0].model_copy(update={"raw": raw, "box": box})
    image = cat.image.model_copy(update={"width": size[0], "height": size[1]})
    return cat.model_copy(update={"grad_cam": [cam], "image": image})


def test_any_mask_is_decoded_to_the_same_pixels_from_runs_and_from_polygons(cat: Result, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        width, height = rng.integers(2, 30, 2).tolist()
        share = rng.random()
        heat = (rng.random((height, width)) < share).astype(np.float32)  # with holes, and regions that touch at corners
        heat[0, 0], heat[-1, -1] = 1, 0
        answer = drawn(cat, heat, [3, 2, 3 + width, 2 + height], (width + 5, height + 4))
        for polygons in (False, True):
            (annotation,) = to_coco([("a.jpg", answer)], polygons=polygons)["annotations"]
            shape = height + 4, width + 5
            packed = rle.frPyObjects(annotation["segmentation"], *shape)
            found = rle.decode(rle.merge(packed) if polygons else packed)
            expected = np.pad(heat, ((2, 2), (3, 2)))
            np.testing.assert_array_equal(found, expected, err_msg=f"{number}, {polygons}")
            assert annotation["area"] == expected.sum()
            box = rle.toBbox(rle.encode(np.asfortranarray(expected.astype(np.uint8))))
            assert annotation["bbox"] == box.tolist()


def test_an_annotation_is_what_the_overlays_line_surrounds(lite0: Network, tmp_path: Path) -> None:
    answer = lite0.explain(CAT, view="whole", overlay=True, include="grad_cam", alpha=1)
    coco = read(to_coco([(CAT, answer)]), tmp_path)
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    assert coco.loadCats([annotation["category_id"]])[0]["name"] == "Egyptian cat"
    assert coco.loadImgs([annotation["image_id"]])[0]["file_name"] == str(CAT)
    mask = coco.annToMask(annotation) > 0
    (cam,) = answer.grad_cam or []
    assert cam.overlay is not None
    chroma = np.ptp(decoded(cam.overlay).astype(int), axis=2)
    edge = mask ^ np.roll(mask, 1, 0)
    inside = mask & np.roll(mask, 8, 0) & np.roll(mask, -8, 0)
    # the line is white and dark, all else in colour
    assert np.percentile(chroma[edge], 90) < 120 < np.percentile(chroma[inside], 5)


@pytest.mark.parametrize("view", ["centre", "whole"])
def test_a_turned_photograph_and_a_panorama_have_masks_in_the_upright_picture(
    lite0: Network, cat: Result, tmp_path: Path, view: Any
) -> None:
    with Image.open(CAT) as upright:
        turned = upright.transpose(Image.Transpose.ROTATE_90)
        panorama = Image.new("RGB", (1804, 300))
        panorama.paste(upright, (451, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it
    turned.save(tmp_path / "turned.png", exif=exif)
    panorama.save(tmp_path / "panorama.png")
    paths = [tmp_path / "turned.png", tmp_path / "panorama.png"]
    found = to_coco((path, lite0.explain(path, view=view, target="Egyptian cat", include="grad_cam")) for path in paths)
    coco = read(found, tmp_path)
    for path, annotation in zip(paths, found["annotations"], strict=True):
        with Image.open(path) as picture:
            size = ImageOps.exif_transpose(picture).size
        mask = coco.annToMask(annotation)
        assert mask.shape == size[::-1]
        x0, y0, x1, y1 = annotation["box"]
        assert mask[y0:y1, x0:x1].sum() == mask.sum() == annotation["area"]
    if view == "whole":
        expected = coco.annToMask(to_coco([(CAT, cat)])["annotations"][0] | {"image_id": 1})
        turned_mask, panorama_mask = map(coco.annToMask, found["annotations"])
        assert np.mean(turned_mask == expected) > 0.99
        assert panorama_mask[:, 451:902].sum() == panorama_mask.sum()  # the rest is black


def test_a_map_without_evidence_has_no_annotation_and_a_threshold_is_a_share(cat: Result) -> None:
    nothing = drawn(cat, -np.ones((2, 2), np.float32), [0, 0, 4, 4], (4, 4))
    found = to_coco([("a.jpg", nothing), ("b.jpg", cat)])
    assert [each["image_id"] for each in found["annotations"]] == [2]
    assert len(found["images"]) == 2
    (wider,) = to_coco([("b.jpg", cat)], threshold=0.4)["annotations"]
    assert wider["area"] > found["annotations"][0]["area"]
    with pytest.raises(ValueError, match="share of the largest value"):
        to_coco([], threshold=80)


def test_fiftyones_maps_cover_the_photograph(lite0: Network) -> None:
    answer = lite0.explain(CAT, method=["grad-cam", "hirescam"], layer=["head", "blocks.10"])
    dataset = to_fiftyone([(CAT, answer)])
    (sample,) = dataset["samples"]
    assert sample["filepath"] == str(CAT.resolve())
    assert {name for name in sample if isinstance(sample[name], dict)} == {
        *("prediction", "grad_cam", "grad_cam_2", "hirescam", "hirescam_2")
    }
    assert dataset["sample_fields"]["grad_cam_2"].endswith("EmbeddedDocumentField(fiftyone.core.labels.Heatmap)")
    cams: list[GradCam] = answer.grad_cam or []
    for cam, name in zip(cams, ("grad_cam", "grad_cam_2", "hirescam", "hirescam_2"), strict=True):
        label = sample[name]
        # as in fiftyone.core.utils.deserialize_numpy_array(..., ascii=True)
        shown = np.load(io.BytesIO(zlib.decompress(base64.b64decode(label["map"]))))
        assert (label["_cls"], label["range"], label["layer"]) == ("Heatmap", [0, 255], cam.layer)
        x0, y0, x1, y1 = cam.box
        assert shown.shape == (300, 451)
        np.testing.assert_array_equal(shown[y0:y1, x0:x1], decoded(cam.mask))
        assert shown.sum() == shown[y0:y1, x0:x1].sum()
