"""Heat maps for other tools: COCO's annotations, and FiftyOne's dataset.

::

    from pellucid.exports import to_coco

    pictures = ["cat.jpg", "dog.jpg"]
    lite0 = pellucid.open("lite0")
    annotations = to_coco((path, lite0.explain(path, view="whole", include="grad_cam")) for path in pictures)

Both are plain data for ``json.dump``. Coordinates are pixels of the upright photograph: EXIF orientation is applied. A
map covers the ``box`` that the network saw. Outside of it there is no evidence.
"""

from __future__ import annotations

import io
import os
import zlib
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pellucid.parts.figures.side_by_side import Canvas
from pellucid.render import compose
from pellucid.schemas import GradCam, Reply, Result

Answers: TypeAlias = Iterable[tuple[str | os.PathLike[str], Result | Reply]]
"""Each photograph's path with its result or reply, of any route with ``grad_cam``."""

Mask: TypeAlias = NDArray[np.bool_]
# The longer side in pixels of FiftyOne's maps, which a browser draws over the photograph.
_SIDE: Final = 512


def to_coco(answers: Answers, *, threshold: float = compose.LINE, polygons: bool = False) -> dict[str, Any]:
    """Each heat map as one annotation: where it reaches ``threshold`` times its largest value.

    The default, 0.8, is what the white line of an overlay surrounds. A map without evidence for its class has no
    annotation. ``segmentation`` is uncompressed RLE, or with ``polygons`` rings along the edges of the same pixels. A
    category's id is the class's index. ``score`` is its probability, share, value or similarity. Beyond COCO's fields
    an annotation has the map's ``method``, ``layer`` and ``box``, and ``info`` each ``provenance`` of the replies.
    Raises ValueError for a threshold that is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a share of the largest value, above 0 and at most 1, not {threshold}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[int, str] = {}
    origins: list[dict[str, Any]] = []
    for path, result in _results(answers, origins):
        kept = result.image.model_dump(include={"width", "height", "sha256"})
        images.append({"id": len(images) + 1, "file_name": os.fspath(path), **kept})
        for cam in result.grad_cam or []:
            mask = _framed(cam, result, lambda heat, size: compose.strong(heat, size, threshold))
            if not mask.any():
                continue
            target = cam.target
            categories[target.index] = target.label
            (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (1, 0))
            about = {"method", "layer", "box", "fused", "direction", "against"}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": target.index,
                    "segmentation": _polygons(mask) if polygons else {"counts": _runs(mask), "size": [*mask.shape]},
                    "area": int(mask.sum()),
                    "bbox": [left, top, right - left + 1, bottom - top + 1],
                    "iscrowd": 0,
                    "score": target.number,
                    **cam.model_dump(include=about, exclude_none=True),
                }
            )
    said = f"Heat maps by Pellucid: where a map reaches {threshold:g} of its largest value"
    return {
        "info": {"description": said, "threshold": threshold, "provenance": origins},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": label} for index, label in sorted(categories.items())],
    }


def to_fiftyone(answers: Answers, *, name: str = "pellucid") -> dict[str, Any]:
    """A dataset of FiftyOne (1.x): write it to a file, and load that by ``fiftyone.Dataset.from_json(file)``.

    Each map is a ``Heatmap`` in a field with its method's name: ``grad_cam``, ``grad_cam_2``. ``map`` is that of the
    masks, 0 to 255, over the whole photograph, its longer side at most 512 pixels. ``prediction`` is the most probable
    class. ``info`` has each ``provenance`` of the replies.
    """
    samples = []
    fields = dict.fromkeys(("filepath", "sha256"), "fiftyone.core.fields.StringField")
    origins: list[dict[str, Any]] = []
    for path, result in _results(answers, origins):
        labels: dict[str, dict[str, Any]] = {}
        for best in (result.predictions or [])[:1]:
            labels["prediction"] = {"_cls": "Classification", "label": best.label, "confidence": best.probability}
        methods: list[str] = []
        for cam in result.grad_cam or []:
            methods.append(cam.method.replace("-", "_"))
            times = methods.count(methods[-1])
            labels[methods[-1] + (f"_{times}" if times > 1 else "")] = {
                "_cls": "Heatmap",
                "map": _array(_framed(cam, result, lambda heat, size: compose.mask(heat, size, False), _SIDE)),
                "range": [0, 255],
                "label": cam.target.label,
                **cam.model_dump(include={"method", "layer", "box"}),
            }
        for field, label in labels.items():
            kind = f"fiftyone.core.labels.{label['_cls']}"
            fields[field] = f"fiftyone.core.fields.EmbeddedDocumentField({kind})"
        samples.append({"filepath": os.path.abspath(path), "sha256": result.image.sha256, **labels})
    info = {"provenance": origins}
    return {"name": name, "media_type": "image", "sample_fields": fields, "info": info, "samples": samples}


def _results(answers: Answers, origins: list[dict[str, Any]]) -> Iterator[tuple[str | os.PathLike[str], Result]]:
    """Each path with its result. The provenance of replies is added to ``origins``, once."""
    for path, answer in answers:
        if (
            isinstance(answer, Reply)
            and answer.provenance
            and (origin := answer.provenance.model_dump()) not in origins
        ):
            origins.append(origin)
        for result in answer.results if isinstance(answer, Reply) else [answer]:
            if isinstance(result, Result):  # a failed picture has none
                yield path, result


def _framed(cam: GradCam, result: Result, drawn: Any, most: int = 2**31) -> NDArray[Any]:
    """A map, ``drawn(heat, size)``, in the frame of the photograph, its longer side at most ``most``."""
    source = result.image.width or 1, result.image.height or 1
    x0, y0, x1, y1 = cam.box
    heat = np.asarray(cam.raw.values, np.float32)
    canvas = Canvas((x0, y0, x1, y1), min(most, max(source)), source=source)
    return canvas.drawn(lambda size: drawn(heat, size), signed=False)


def _array(values: NDArray[Any]) -> str:
    """An array as FiftyOne's JSON has it: the bytes of ``numpy.save``, deflated, in base64."""
    file = io.BytesIO()
    np.save(file, values)
    return b64encode(zlib.compress(file.getvalue())).decode()


def _runs(mask: Mask) -> list[int]:
    """The lengths of the runs of a mask, column by column: of 0 first, then by turns."""
    changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False))
    return [*map(int, np.diff(changes, prepend=0, append=mask.size))]


def _polygons(mask: Mask, left: int = 0) -> list[list[int]]:
    """Rings ``[x0, y0, x1, y1, ...]`` along pixels' edges, whose union is a mask that begins at the column ``left``.

    COCO's polygons have no holes, so a mask with a hole is cut in two where the hole begins.
    """
    rings = [*_rings(mask)]
    for ring in rings:
        x, y = ring[::2], ring[1::2]
        if sum(a * d - b * c for a, b, c, d in zip(x, y, x[1:] + x[:1], y[1:] + y[:1], strict=True)) < 0:
            cut = min(x)
            return _polygons(mask[:, :cut], left) + _polygons(mask[:, cut:], left + cut)
    return [[at + left * (place % 2 == 0) for place, at in enumerate(ring)] for ring in rings]


def _rings(mask: Mask) -> Iterator[list[int]]:
    """The corners of each outline of a mask, as x and y by turns: clockwise around a region, else around a hole."""
    padded = np.pad(mask, 1).astype(np.int8)
    rows, columns = np.diff(padded, axis=0)[:, 1:-1], np.diff(padded, axis=1)[1:-1]
    # Every edge of a pixel with another beside it, as a corner and a step: the region is on the right-hand side.
    steps: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for edges, sign, corner, step in (
        (rows, 1, (0, 0), (1, 0)),
        (rows, -1, (1, 0), (-1, 0)),
        (columns, 1, (0, 1), (0, -1)),
        (columns, -1, (0, 0), (0, 1)),
    ):
        for y, x in np.argwhere(edges == sign).tolist():
            steps.setdefault((x + corner[0], y + corner[1]), []).append(step)
    while steps:
        x, y = start = next(iter(steps))
        ring: list[int] = []
        turned, first, before = (0, 0), (0, 0), (0, 0)
        # Where two regions touch at a corner, a right turn keeps to the same one: each has a ring of its own.
        while not ring or (x, y) != start or (turned != first and start in steps):
            following = steps[x, y]
            step = following.pop(following.index(turned) if turned in following else 0)
            if not following:
                del steps[x, y]
            if step != before:
                ring += (x, y)
            x, y = x + step[0], y + step[1]
            first, before, turned = first if any(first) else step, step, (-step[1], step[0])
        yield ring
