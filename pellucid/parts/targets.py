"""What is explained: a class, a quantity, a region of a segmentation, or the likeness to another picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from pellucid.decode.region import drawn
from pellucid.errors import InvalidOption
from pellucid.lookup import class_index
from pellucid.network.spec import ModelSpec
from pellucid.parts.option_types import CommaSeparated, Name, Names, Options
from pellucid.types import Outcome, Plan, Reference, Region

Direction = Literal["up", "down"]
_REGIONS = (
    "`class`, `picture`, a point `x,y`, or a box `x0,y0,x1,y1` with x0 < x1 and y0 < y1, in pixels of the picture"
)


class TargetOptions(Options):
    """The options that say what is explained."""

    target: Names = Field(
        default_factory=list,
        max_length=20,
        description="The class, label or quantity to explain, by index or by name (case does not matter). Repeat the "
        "option for several. Default: the most probable class. For a segmentation: the class with the largest share, "
        "other than the background. For quantities: the first.",
        examples=[["Egyptian cat"], ["285", "281"]],
    )
    region: Annotated[list[Name], CommaSeparated] = Field(
        default_factory=lambda: ["class"],
        max_length=4,
        description="For a segmentation: the region in which the class is explained. The explained scalar is the "
        "mean of its logit there. `class`: where the class has the largest logit. `picture`: everything that the "
        "network sees. Or a point x,y or a box x0,y0,x1,y1 in pixels of the upright picture.",
        examples=[["class"], ["120", "80", "300", "260"]],
    )
    region_mask: str | None = Field(
        None,
        description="For a segmentation: a mask in place of `region`, as an image in base64. It covers the whole "
        "picture, in any resolution. The class is explained where the mask is bright.",
        examples=["iVBORw0KGgo…"],
    )
    reference: str | None = Field(
        None,
        description="For an embedding: the picture to compare with, as an image in base64. The cosine of both "
        "embeddings is explained. A form can send the image as the file `reference`.",
        examples=["/9j/4AAQSkZJRg…"],
    )

    @property
    def explains(self) -> bool:
        """Whether these options need something to explain. Otherwise an embedding needs no reference."""
        return True

    def aim(self, plan: Plan, spec: ModelSpec) -> Plan:
        """The plan with the targets and their regions. Raises UnknownName and InvalidOption.

        For an embedding, the flow adds the reference.
        """
        kind = spec.output.kind
        if kind == "embedding":
            if self.target:
                raise InvalidOption(f"target: The output of {spec.name} is an embedding: send `reference` instead.")
            if self.reference is None and self.explains:
                raise InvalidOption(
                    f"reference: The output of {spec.name} is an embedding, so its similarity to another picture is "
                    "explained. Send that picture, or ask /v1/predict, /v1/attention or /v1/feature-maps without it."
                )
            self._require(spec, reference=True)
            return replace(plan, targets=(0,))
        targets = tuple(dict.fromkeys(class_index(name, spec) for name in self.target))
        if kind == "dense":
            self._require(spec, region=True)
            return replace(plan, targets=targets, regions=(self._region(),))
        self._require(spec)
        return replace(plan, targets=targets or ((0,) if kind == "linear" else ()))

    def _require(self, spec: ModelSpec, region: bool = False, reference: bool = False) -> None:
        """Raise InvalidOption for options that the output does not have."""
        has = f"{spec.name} has the output {spec.output.kind}: leave the option out."
        if not region and (self.region != ["class"] or self.region_mask is not None):
            name = "region" if self.region_mask is None else "region_mask"
            raise InvalidOption(f"`{name}` needs a network whose output is a segmentation; {has}")
        if not reference and self.reference is not None:
            raise InvalidOption(f"`reference` needs a network whose output is an embedding; {has}")

    def _region(self) -> Region:
        """The region before the picture is known."""
        if self.region_mask is not None:
            if self.region != ["class"]:
                raise InvalidOption("Give `region` or `region_mask`, not both.")
            return Region("mask", drawn=drawn(self.region_mask))
        match self.region:
            case ["class" | "picture" as kind]:
                return Region("class" if kind == "class" else "picture")
        try:
            at = tuple(map(float, self.region))
        except ValueError:
            at = ()
        if len(at) == 2 and min(at) >= 0:
            return Region("point", at)
        if len(at) == 4 and 0 <= at[0] < at[2] and 0 <= at[1] < at[3]:
            return Region("box", at)
        raise InvalidOption(f"region: {','.join(self.region)[:80]!r} is not a region. Allowed are {_REGIONS}.")


class LayerOptions(TargetOptions):
    """The options of TargetOptions, and ``layer``."""

    layer: Name | None = Field(
        None,
        description="Layer to explain at, by a name from /v1/models/{name}. Default: the last layer with a spatial "
        "extent.",
        examples=["head", "blocks.10"],
    )


def liken(plan: Plan, other: Outcome) -> Plan:
    """The plan of a picture that is compared with one whose outcome is ``other``: the likeness is explained."""
    assert other.embedding is not None
    return replace(plan, reference=Reference(other.embedding))
