"""The pictures that stand out, each with its reason in one sentence. docs/how-to/report.md has the rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pellucid.report.answers import Seen
from pellucid.report.clusters import Reasons
from pellucid.report.measures import outside_middle

Kind = Literal["cluster", "contradicts", "unclear", "wrong", "unsure", "border", "empty", "gates", "atlas"]
TITLES: Final[dict[Kind, str]] = {
    "cluster": "In a suspicious cluster",
    "contradicts": "The trust test contradicts the map",
    "unclear": "The map does no better than at random places",
    "wrong": "Not the class of its folder",
    "unsure": "Low confidence",
    "border": "Map outside the middle",
    "empty": "No evidence for the class",
    "gates": "Gates unlike the other pictures’",
    "atlas": "Gates unlike the atlas",
}
# A picture stands out below this probability, above this share outside of the middle, and above this gate distance.
UNSURE: Final = 0.4
BORDER: Final = 0.8
FAR: Final = 6.0


@dataclass(frozen=True)
class Finding:
    """Why a picture stands out. The larger ``weight``, the more; it compares findings of one kind."""

    kind: Kind
    seen: Seen
    sentence: str
    weight: float


def findings(
    pictures: Sequence[Seen], reasons: Iterable[Reasons], distances: Sequence[tuple[str, float]]
) -> list[Finding]:
    """All findings, in the order of TITLES, the weightiest of each kind first. ``distances`` are gate_distances."""
    found = [finding for seen in pictures for finding in _alone(seen)]
    for seen, (gate, distance) in zip(pictures, distances, strict=False):
        if distance > FAR:
            said = f"The weights of {gate} lie {distance:.0f} robust deviations further from the median than usual."
            found.append(Finding("gates", seen, said, distance))
    for reason in reasons:
        for cluster in reason.clusters:
            if cluster.suspicious:
                found += (
                    Finding("cluster", seen, f"Its map for “{reason.label}” is in a cluster of its own.", -place)
                    for place, seen in enumerate(cluster.pictures)
                )
    order = list(TITLES)
    return sorted(found, key=lambda finding: (order.index(finding.kind), -finding.weight))


def _alone(seen: Seen) -> Iterator[Finding]:
    """The findings that need no other picture."""
    label, trust = seen.target.label, seen.cam.trust
    if trust and trust.finding != "follows" and trust.advantage <= 0:
        yield Finding(trust.finding, seen, trust.sentence, -trust.advantage)
    if seen.truth is not None and seen.truth != seen.best.label:
        said = f"The folder says “{seen.truth}”, the network “{seen.best.label}” ({seen.best.score})."
        yield Finding("wrong", seen, said, seen.best.probability or 0)
    if (probability := seen.best.probability) is not None and probability < UNSURE:
        yield Finding(
            "unsure", seen, f"The most probable class, “{seen.best.label}”, has {probability:.1%}.", -probability
        )
    outside = outside_middle(seen.heat)
    if outside is None:
        yield Finding("empty", seen, f"No position speaks for “{label}”: the map is negative throughout.", 0)
    elif outside >= BORDER:
        yield Finding(
            "border", seen, f"{outside:.0%} of the evidence for “{label}” lies outside of the middle.", outside
        )
    gates = seen.result.attention.gates if seen.result.attention else []
    if unusual := [(gate.atlas.outside, gate.layer) for gate in gates if gate.atlas and gate.atlas.unusual]:
        outside, layer = max(unusual)
        others = f" Unusual gates: {len(unusual)}." if len(unusual) > 1 else ""
        said = f"{outside:.0%} of the weights of {layer} lie outside the range of all pictures of the atlas.{others}"
        yield Finding("atlas", seen, said, outside)
