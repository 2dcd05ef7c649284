"""Types that all replies share: pictures, classes and problems. In a notebook, every one of them shows itself."""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from pellucid.schemas.shown import Answer, Encoded, Source, Words, brief

if TYPE_CHECKING:
    from PIL import Image

BoxField = Annotated[
    list[int],
    Field(
        min_length=4,
        max_length=4,
        description="The part of the source picture that the network saw and the mask covers, as x0, y0, x1, y1 in "
        "pixels of the upright picture (EXIF orientation applied). The origin is at the top left. x1 and y1 are "
        "exclusive.",
        examples=[[94, 19, 357, 281]],
    ),
]


class Schema(Answer, BaseModel):
    """A part of a reply.

    ``_words``: what it is in one phrase, formatted with it as ``{0}``. ``_shows``: the fields that its HTML has, by
    default all. ``_colours``: how the pictures in a field are coloured. ``heat`` and ``classes`` are over the
    photograph, ``second`` is heat over the second photograph, ``difference`` is signed; others stay as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    _words: ClassVar[str] = ""
    _shows: ClassVar[tuple[str, ...]] = ()
    _colours: ClassVar[dict[str, str]] = {}
    _source: Source | None = None

    def __str__(self) -> str:
        return self._words.format(self) if self._words else repr(self)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields that are present, long ones in brief."""
        return ((name, Words(brief(value, repr))) for name, value in self if value is not None)


class Problem(Schema):
    """An error (RFC 9457)."""

    _words: ClassVar[str] = "{0.title}. {0.detail}"

    type: str = Field(description="The kind of error, as a URN.", examples=["urn:pellucid:problem:unknown-name"])
    title: str = Field(description="The kind of error, in words.", examples=["Unknown name"])
    status: int = Field(description="The HTTP status.", examples=[422])
    detail: str = Field(
        description="What was wrong with this request, and what is allowed.",
        examples=[
            "Unknown class 'tabbyy'. Did you mean 'tabby'? There are 1000; indices from 0 to 999 are allowed, too."
        ],
    )
    request_id: str = Field(description="The request's id, as in X-Request-ID.", examples=["b1f5c0de7a3e4c55"])
    allowed: list[str] | None = Field(
        None, description="The allowed values, if listing them helps.", examples=[["JPEG", "PNG"]]
    )


class ImageInfo(Schema):
    """The picture as it was received. Format and size are null if it could not be decoded."""

    _words: ClassVar[str] = "{0.filename}, {0.width} x {0.height} pixels"

    filename: str | None = Field(description="The filename that the client gave.", examples=["cat.jpg"])
    format: str | None = Field(description="The format, detected from the bytes.", examples=["JPEG"])
    width: int | None = Field(description="Width in pixels, EXIF orientation applied.", examples=[451])
    height: int | None = Field(description="Height in pixels, EXIF orientation applied.", examples=[300])
    sha256: str = Field(
        description="SHA-256 of the bytes received, in hexadecimal.",
        examples=["596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"],
    )


class Picture(Encoded, Schema):
    """An encoded picture."""

    _words: ClassVar[str] = "{0.media_type}, {0.width} x {0.height} pixels"

    media_type: str = Field(description="The media type of `data`.", examples=["image/png"])
    width: int = Field(description="Width in pixels.", examples=[263])
    height: int = Field(description="Height in pixels.", examples=[262])
    data: str = Field(description="The picture's bytes in base64.", examples=["iVBORw0KGgo…"])

    @classmethod
    def small(cls, image: Image.Image, side: int, media_type: str) -> Self:
        """An image of Pillow in RGB, at most ``side`` pixels long."""
        image, file = image.convert("RGB"), io.BytesIO()
        image.thumbnail((side, side))
        image.save(file, media_type.removeprefix("image/"), quality=75)
        data = b64encode(file.getvalue()).decode()
        return cls(media_type=media_type, width=image.width, height=image.height, data=data)

    def __bytes__(self) -> bytes:
        """The file. Raises ValueError if ``data`` is not base64."""
        return b64decode(self.data, validate=True)

    def __repr__(self) -> str:
        return f"<Picture: {self}>"


class ClassName(Schema):
    """A class of the network."""

    _words: ClassVar[str] = "{0.label}"

    index: int = Field(description="The class's index.", examples=[285])
    label: str = Field(description="The class's label.", examples=["Egyptian cat"])


class Target(ClassName):
    """What is explained, with its score for this picture. Which score depends on the network's `output`.

    Classes and labels have a probability, quantities a value. The target of an embedding is the similarity to the
    reference, with the index 0 and the label `reference`.
    """

    _words: ClassVar[str] = "{0.label} {0.score}"
    _shows: ClassVar[tuple[str, ...]] = ("label", "score")

    probability: float | None = Field(
        None,
        description="For a class: softmax over all classes. For an independent label: the sigmoid of its logit. For "
        "the target of a segmentation: softmax at each position, averaged over the region.",
        examples=[0.355],
    )
    applies: bool | None = Field(
        None,
        description="Whether an independent label applies: its probability reaches the network's `threshold`.",
        examples=[True],
    )
    share: float | None = Field(
        None,
        description="For a class of a segmentation: the share of what the network sees in which the class has the "
        "largest logit, 0 to 1.",
        examples=[0.28],
    )
    value: float | None = Field(None, description="For a quantity: the network's output.", examples=[41.5])
    unit: str | None = Field(None, description="The quantity's unit, if it has one.", examples=["years"])
    similarity: float | None = Field(
        None, description="For an embedding: the cosine with the embedding of the reference, -1 to 1.", examples=[0.83]
    )

    @property
    def score(self) -> str:
        """The score for readers: "35.5%", "41.5 years", "28.0% of the picture", "0.830"."""
        if self.similarity is not None:
            return f"{self.similarity:.3f}"
        if self.value is not None:
            return f"{self.value:.4g} {self.unit or ''}".rstrip()
        if self.share is not None:
            return f"{self.share:.1%} of the picture"
        return f"{self.probability or 0:.1%}"

    @property
    def number(self) -> float | None:
        """The probability, share, value or similarity: the first that the target has."""
        scores = (self.probability, self.share, self.value, self.similarity)
        return next((score for score in scores if score is not None), None)


class Prediction(Target):
    """A class, a label or a quantity, with its scores."""

    logit: float | None = Field(
        None, description="For a class or label: the output before softmax or sigmoid.", examples=[9.12]
    )
