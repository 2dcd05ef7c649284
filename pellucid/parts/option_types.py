"""What all options share: the types of values, the model that says how they become a plan and a reply, and errors."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from pellucid.errors import InvalidOption
from pellucid.network.spec import ModelSpec, NetworkSpec
from pellucid.parts.result import frame
from pellucid.render import colormap
from pellucid.trust.trials import Design
from pellucid.types import DecodedImage, MethodSpec, Outcome, Plan

if TYPE_CHECKING:
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
    """One value or several, each of which may hold several between commas."""
    return [part.strip() for entry in _as_strings(value) for part in entry.split(",") if part.strip()]


# Longer than any name of a class or layer, and short enough to be looked for among all of them.
_LONGEST_NAME: Final = 256
Name = Annotated[str, Field(max_length=_LONGEST_NAME)]


def _scaled(text: str) -> str:
    if not re.fullmatch(r"\s*\d{1,5}\s*:\s*-?\d{1,3}(\.\d{1,6})?\s*", text):
        raise ValueError("Should be CHANNEL:FACTOR, as 12:0.5, the factor between -1000 and 1000")
    return text


Scaled = Annotated[str, AfterValidator(_scaled)]
MOST_EDITED: Final = 4096
Names = Annotated[list[Name], BeforeValidator(_as_strings)]
CommaSeparated = BeforeValidator(_split)
MAX_SIDE: Final = 1024
Side = Annotated[int, Field(ge=8, le=4096)]


def _single(name: str) -> str:
    if "," in name or not name.strip():
        raise ValueError("Should be one name")
    return name


OneName = Annotated[Name, AfterValidator(_single)]


class Offer(Protocol):
    """A network that answers: what it is, what it offers, and by which methods."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def network(self) -> NetworkSpec: ...

    @property
    def methods(self) -> Sequence[MethodSpec]: ...


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that an image's entry is written from: the picture, what the pass found in it, and the network's labels.

    ``trusted`` has what was measured of each map, if that was asked for. ``media_type`` is that of pictures.
    """

    image: DecodedImage
    outcome: Outcome
    labels: Sequence[str]
    trusted: Sequence[Trusted] = ()
    media_type: str = "image/png"


# Pixels of all pictures of one request: some seconds of one core.
_MOST_DRAWN: Final = 128_000_000


class Options(BaseModel):
    """Options of every POST route.

    Each kind says what it asks of a network (``asks``), what it writes (``written``), and how much that draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_ms: int | None = Field(
        None,
        ge=1,
        description="Milliseconds after which the answer is of no use: 504 then, and no work is done for it. "
        "Default and upper limit are the operator's.",
        examples=[2000],
    )

    model: Name | None = Field(
        None,
        description="The network to ask, by a name from /v1/models. Default: the first of them.",
        examples=["lite0"],
    )

    provenance: bool = Field(
        False,
        description="Also say what computed the answer, in enough detail for `pellucid reproduce` to compute it again "
        "to the bit. Each picture is run as a batch of its own, by one thread, so that no bit depends on what else is "
        "asked at the time: it takes longer. On routes under /v1.",
        examples=[True],
    )

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, given: Any) -> Any:
        """Say which options there are, where pydantic would only say that one is extra."""
        for name in given if isinstance(given, Mapping) else ():
            if name not in cls.model_fields:
                close = get_close_matches(str(name)[:_LONGEST_NAME], cls.model_fields, n=1)
                guess = f" Did you mean {close[0]!r}?" if close else ""
                raise PydanticCustomError(
                    "unknown_option",
                    "Unknown option {name}.{guess} This route takes {allowed}.",
                    {"name": _shown(name), "guess": guess, "allowed": ", ".join(cls.model_fields)},
                )
        return given

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
        """What the engine computes for each of so many images. Raises UnknownName, InvalidOption and Unexplainable."""
        plan = self.asks(offer, Plan(reproducible=self.provenance))
        self.bound(images, plan)
        return plan

    def bound(self, images: int, plan: Plan) -> None:
        """Raise InvalidOption where the pictures could be larger than a request is worth.

        Drawing can't be stopped, so its cost is bounded before it begins.
        """
        pixels = images * self.pixels(plan)
        if pixels > _MOST_DRAWN:
            raise InvalidOption(
                f"The pictures could have {pixels // 10**6} million pixels, at most {_MOST_DRAWN // 10**6} are drawn "
                "for a request. Ask for fewer images, targets, methods, layers or channels, or a smaller `max_side` or "
                "`tile`."
            )

    def entry(self, analysis: Analysis) -> dict[str, Any]:
        """An entry of ``results`` but for what is known of the upload. Pictures are still ``render.encode.Picture``."""
        entry = self.written(analysis)
        return {**entry, "frame": frame(analysis.image)} if self.provenance else entry

    def asks(self, offer: Offer, plan: Plan) -> Plan:
        """``plan`` with what this part needs. Raises UnknownName, InvalidOption and Unexplainable."""
        raise NotImplementedError

    def written(self, analysis: Analysis) -> dict[str, Any]:
        """The part as JSON, by its name."""
        raise NotImplementedError

    def pictures(self, plan: Plan) -> int:
        """How many pictures an image's entry has."""
        return 0

    def pixels(self, plan: Plan) -> int:
        """How many pixels these pictures have at most."""
        return 0

    @property
    def picture_side(self) -> int | None:
        """The longer side of the source picture to keep, where maps are drawn over it."""
        return None

    @property
    def design(self) -> Design | None:
        """How maps are tried; None where they are not."""
        return None

    def addressed_to(self, name: str) -> Self:
        """These options, at a path of another protocol, which names the network.

        Raises InvalidOption where ``model`` names another, and for provenance, which its replies have no place for.
        """
        if self.provenance:
            raise InvalidOption("provenance: Only replies of routes under /v1 carry it.")
        if self.model not in (None, name):
            raise InvalidOption(f"model: The path names {name!r}, so it can't be {_shown(self.model)}.")
        return self


def invalid(errors: Any) -> InvalidOption:
    """pydantic's or FastAPI's list of errors as one InvalidOption."""
    return InvalidOption(" ".join(_sentence(error) for error in errors))


# Of a text it keeps both ends, of a list the first few: whatever is shown costs as little as what is left of it.
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
    """What a caller sent, as far as it helps: it may be as long as a body."""
    shown = _SHORT.repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
