"""What all options share: types of values, the base class, and error messages."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Protocol, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pellucid.decode.view import (
    CENTRE,
    LEAST_DETAIL,
    MOST_DETAIL,
    MOST_TILES,
    View,
    ViewKind,
    tile_multiple,
    whole_size,
)
from pellucid.errors import InvalidOption
from pellucid.network.spec import ModelSpec, NetworkSpec, Sizes
from pellucid.parts.result import frame
from pellucid.render import colormap
from pellucid.render.encode import Picture
from pellucid.trust.perturbations import Design
from pellucid.types import DecodedImage, MethodSpec, Outcome, Plan

if TYPE_CHECKING:
    from pellucid.atlas.file import Atlas
    from pellucid.parts.trust import Trusted


def _known_colormap(name: str) -> str:
    if name not in colormap.NAMES:
        raise ValueError(f"Should be one of {', '.join(colormap.NAMES)}")
    return name


ColormapName = Annotated[str, AfterValidator(_known_colormap), Field(json_schema_extra={"enum": list(colormap.NAMES)})]


def _as_strings(value: Any) -> list[str]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    for entry in values:
        if isinstance(entry, bool) or not isinstance(entry, (str, int, float)):
            raise ValueError("Should be text, a number, or a list of them")
    return [str(entry) for entry in values]


def _split(value: Any) -> list[str]:
    """The names in one value or several; commas separate names as well."""
    return [part.strip() for entry in _as_strings(value) for part in entry.split(",") if part.strip()]


# Longer than any name of a class or layer. A longer text would make the search for similar names slow.
_LONGEST_NAME: Final = 256
Name = Annotated[str, Field(max_length=_LONGEST_NAME)]


def _scaled(text: str) -> str:
    if not re.fullmatch(r"\s*\d{1,5}\s*:\s*-?\d{1,3}(\.\d{1,6})?\s*", text):
        raise ValueError("Should be CHANNEL:FACTOR, such as 12:0.5, with a factor between -1000 and 1000")
    return text


Scaled = Annotated[str, AfterValidator(_scaled)]
MOST_EDITED: Final = 4096
Names = Annotated[list[Name], BeforeValidator(_as_strings)]
CommaSeparated = BeforeValidator(_split)
MAX_SIDE: Final = 1024
# The longer side of a segmentation, in pixels.
SEGMENTATION_SIDE: Final = 1024
Side = Annotated[int, Field(ge=8, le=4096)]
LeastSide = Annotated[int, Field(ge=0, le=4096)]
Fit = Literal["box", "source"]


def _single(name: str) -> str:
    if "," in name or not name.strip():
        raise ValueError("Should be one name")
    return name


OneName = Annotated[Name, AfterValidator(_single)]


class Offer(Protocol):
    """A network and its methods."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def network(self) -> NetworkSpec: ...

    @property
    def methods(self) -> Sequence[MethodSpec]: ...

    @property
    def sizes(self) -> Sizes: ...

    @property
    def atlas(self) -> Atlas | None: ...


@dataclass(frozen=True, slots=True)
class Analysis:
    """The data of an image's entry: the image, the engine's outcome, and the network's spec.

    ``trusted`` has the measurements of each map, with ``trust=true``. ``media_type`` is the type of pictures.
    ``methods`` are the network's. ``atlas`` is its atlas, if one is open. ``left`` says whether the caller has left.
    """

    image: DecodedImage
    outcome: Outcome
    spec: ModelSpec
    trusted: Sequence[Trusted] = ()
    media_type: str = "image/png"
    methods: Sequence[MethodSpec] = ()
    atlas: Atlas | None = None
    left: Callable[[], bool] = lambda: False


# Numbers of the explained scalars of an image: a weight of each number of the output, for each target.
_MOST_WEIGHTS: Final = 2**24
# Pixels of all pictures of one request. Drawing them takes some seconds of one core.
_MOST_DRAWN: Final = 128_000_000


class Options(BaseModel):
    """Options of every POST route.

    A part overrides ``asks``, what the engine computes for it, ``written``, its JSON, and, if it has pictures,
    ``pictures`` and ``pixels``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    never: ClassVar[tuple[str, ...]] = ()  # options that the route always refuses

    timeout_ms: int | None = Field(
        None,
        ge=1,
        description="Deadline of the request in milliseconds. After it, the reply is 504, and work on the request "
        "stops. The operator sets the default, which is also the upper limit.",
        examples=[2000],
    )

    model: Name | None = Field(
        None,
        description="The network to run, by a name from /v1/models. Default: the first network there.",
        examples=["lite0"],
    )

    provenance: bool = Field(
        False,
        description="Also report what computed the answer, in enough detail for `pellucid reproduce` to compute it "
        "again to the bit. Each picture then runs in a batch of its own, on one thread, so that no bit depends on "
        "other requests. This takes longer. Only routes under /v1 support it.",
        examples=[True],
    )

    view: ViewKind = Field(
        "centre",
        description="What the network sees of a picture. `centre`: the centre crop that its preprocessing defines. "
        "`whole`: the whole picture in its own proportions. `squash`: the whole picture, squeezed to the network's "
        "input size. With `whole`, a network with a fixed input size sees the picture in tiles (overlapping parts), as "
        "does every network if the picture is longer than 1:3. The answers of the tiles are merged. A picture has at "
        f"most {MOST_TILES} tiles, and each counts as an image. In the reply, `box` is what was seen, and "
        "`tiles` are its tiles.",
        examples=["centre"],
    )

    detail: int | None = Field(
        None,
        ge=LEAST_DETAIL,
        le=MOST_DETAIL,
        description="With `view=whole`: the length in pixels of the picture's short side, as the network sees it. "
        "Both sides are rounded to multiples of `whole.multiple` of /v1/models/{name}, and to one of 13 proportions, "
        "so that pictures can share batches. The network sees at most a million pixels, so a large picture gets a "
        "shorter side. Default: the `resize` of the network's preprocessing. For a network with a fixed input size, "
        "the default is the side of its tiles, which is also the minimum.",
        examples=[256],
    )

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, given: Any) -> Any:
        """Name the options that there are; pydantic would only say that one is extra."""
        for name in given if isinstance(given, Mapping) else ():
            if name not in cls.model_fields:
                sentence = unknown_option(str(name), [each for each in cls.model_fields if each not in cls.never])
                raise PydanticCustomError("unknown_option", "{sentence}", {"sentence": sentence})
        return given

    def __hash__(self) -> int:
        """By identity: lists have no hash, and requests with the same query share one object."""
        return id(self)

    @classmethod
    def take_one(cls, given: Sequence[tuple[str, str]]) -> None:
        """Raise InvalidOption if an option that takes one value is given several times."""
        for name, times in Counter(name for name, _ in given).items():
            field = cls.model_fields.get(name)
            if times > 1 and field is not None and field.default_factory is None:
                raise InvalidOption(f"{name} is given {times} times; it takes one value.")

    def merged(self, fields: Mapping[str, Any]) -> Self:
        """These options with the fields of a JSON body over them. Raises InvalidOption."""
        if not fields:
            return self
        try:
            return self.model_validate({**self.model_dump(exclude_unset=True), **fields})
        except ValidationError as error:
            raise invalid(error.errors(include_url=False, include_context=False)) from error

    def plan(self, offer: Offer, images: int) -> Plan:
        """What the engine computes for each of ``images``. Raises UnknownName, InvalidOption and Unexplainable."""
        view = self.seen(offer.spec, offer.sizes)
        # Until the picture is decoded, the size of one of 4:3 stands for its size: it forecasts the cost.
        size = whole_size(4, 3, view) if view.kind == "whole" and view.tile is None else None
        plan = self.asks(offer, Plan(reproducible=self.provenance, size=size))
        drawn = SEGMENTATION_SIDE**2 if offer.spec.output.kind == "dense" and self.has_output else 0
        self.bound(images, plan, drawn)
        most = max(1, _MOST_WEIGHTS // offer.spec.scalars)
        if len(plan.targets) > most:
            raise InvalidOption(
                f"target: The output has {offer.spec.scalars} numbers, so at most {most} targets are explained in one "
                "request."
            )
        return plan

    def seen(self, spec: ModelSpec, sizes: Sizes) -> View:
        """What the network sees of a picture. Raises InvalidOption if it can't see it in this way."""
        if self.view != "whole":
            if self.detail is not None:
                raise InvalidOption("detail: It needs view=whole. Other views have the network's own size.")
            return CENTRE if self.view == "centre" else View(self.view)
        if sizes.multiple is None:
            tile = spec.preprocess.size
            side = min(tile)
            if self.detail is not None and self.detail < side:
                raise InvalidOption(
                    f"detail: {spec.name} sees whole pictures in tiles of {tile[1]} x {tile[0]} pixels, because "
                    f"{sizes.why}. So the least `detail` is {side}."
                )
            # Beyond the limits of the option the default has no number: it is the size of a tile.
            usual = side if LEAST_DETAIL <= side <= MOST_DETAIL else 0
            return View("whole", self.detail or usual, tile_multiple(*tile), tile)
        detail = self.detail or min(max(spec.preprocess.resize, LEAST_DETAIL), MOST_DETAIL)
        return View("whole", detail, sizes.multiple)

    def bound(self, images: int, plan: Plan, segmentation: int = 0) -> None:
        """Raise InvalidOption if the pictures could have too many pixels. ``segmentation``: the most that one can have.

        Drawing can't be cancelled, so its cost is bounded before it starts.
        """
        pixels = images * (self.pixels(plan) + segmentation)
        if pixels > _MOST_DRAWN:
            raise InvalidOption(
                f"The pictures could have {pixels // 10**6} million pixels, and at most {_MOST_DRAWN // 10**6} "
                "million are drawn for one request. Ask for fewer images, targets, methods, layers or channels, or a "
                "smaller `max_side` or `tile`."
            )

    def entry(self, analysis: Analysis) -> dict[str, Any]:
        """An entry of ``results`` without ``image``. Pictures are still ``render.encode.Picture``."""
        entry = self.written(analysis)
        if analysis.image.tiling is not None:
            entry["tiles"] = analysis.image.tile_boxes
        return {**entry, "frame": frame(analysis.image)} if self.provenance else entry

    def as_picture(self) -> Self:
        """These options for a reply that is one picture, with the defaults of such a reply."""
        return self

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        """``plan``, extended by what this part needs. Raises UnknownName, InvalidOption and Unexplainable."""
        raise NotImplementedError

    def written(self, analysis: Analysis) -> dict[str, Any]:
        """The part's field of the entry, with its name."""
        raise NotImplementedError

    def pictures(self, plan: Plan) -> int:
        """The number of pictures in an image's entry."""
        return 0

    def pixels(self, plan: Plan) -> int:
        """The largest number of pixels that these pictures can have."""
        return 0

    @property
    def has_output(self) -> bool:
        """Whether an image's entry has the ``segmentation`` of a dense output."""
        return False

    def picture(self, entry: dict[str, Any], media_type: str) -> tuple[Picture, dict[str, str]]:
        """The one picture of an entry, and headers that describe it. The entry has the network's name as ``model``."""
        raise NotImplementedError

    @property
    def picture_side(self) -> int | None:
        """The longer side in pixels of the source picture under overlays; None without overlays."""
        return None

    @property
    def design(self) -> Design | None:
        """How ``trust`` is measured; None if it is not."""
        return None

    def addressed_to(self, name: str) -> Self:
        """These options for a route of another protocol, whose path has the network's ``name``.

        Raises InvalidOption if ``model`` is another, and for provenance, which these replies can't hold.
        """
        if self.provenance:
            raise InvalidOption("provenance: Only routes under /v1 support it.")
        if self.model not in (None, name):
            raise InvalidOption(f"model: The path names {name!r}, so it can't be {_shown(self.model)}.")
        return self


def unknown_option(name: str, allowed: Sequence[str]) -> str:
    """The sentence about an option that the route does not take."""
    close = get_close_matches(name[:_LONGEST_NAME], allowed, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown option {_shown(name)}.{guess} This route takes {', '.join(allowed) or 'no options'}."


def invalid(errors: Any) -> InvalidOption:
    """The InvalidOption for a list of errors of pydantic or FastAPI."""
    return InvalidOption(" ".join(_sentence(error) for error in errors))


# Shortens before it formats: both ends of a text, the first elements of a list.
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def _sentence(error: Mapping[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"] if part not in ("query", "body"))
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    if not name:
        return f"{message}."
    if "input" not in error:
        return f"{name}: {message}."
    return f"{name}: {message}, got {_shown(error['input'])}."


def _shown(value: Any) -> str:
    """A value of a request, shortened: it can be as long as the body."""
    shown = _SHORT.repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
