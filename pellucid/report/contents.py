"""What a report holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pellucid.report import clusters, measures, outliers
from pellucid.report.answers import Seen, Unseen
from pellucid.schemas import ModelDetail, Provenance


@dataclass(frozen=True)
class Report:
    """The answers about the pictures of a folder, and what is computed of them once."""

    title: str
    model: ModelDetail
    provenance: Provenance
    seen: Sequence[Seen]
    unseen: Sequence[Unseen]

    @cached_property
    def classes(self) -> list[measures.ClassSummary]:
        """The explained classes, the one with the most pictures first."""
        return measures.of_classes(self.seen)

    @cached_property
    def reasons(self) -> list[clusters.Reasons]:
        """The clusters of each class, those with a suspicious one first."""
        found = [clusters.reasons(each) for each in self.classes]
        return sorted(found, key=lambda reasons: not any(cluster.suspicious for cluster in reasons.clusters))

    @cached_property
    def gate_distances(self) -> list[tuple[str, float]]:
        """For each picture, the gate that is furthest from the others', and how far; none of few pictures."""
        return measures.gate_distances(self.seen)

    @cached_property
    def findings(self) -> list[outliers.Finding]:
        """Why pictures stand out."""
        return outliers.findings(self.seen, self.reasons, self.gate_distances)


def true_labels(names: Sequence[str], labels: Sequence[str]) -> list[str | None]:
    """The label that each picture's first subfolder names, by label or index. ``names`` are paths below the folder.

    All None unless every subfolder names a label: then the folders mean something else.
    """
    known = {label.casefold(): label for label in reversed(labels)}
    folders = {name: name.partition("/")[0] for name in names if "/" in name}
    found = {
        folder: labels[int(folder)]
        if folder.isascii() and folder.isdigit() and int(folder) < len(labels)
        else known.get(folder.casefold())
        for folder in folders.values()
    }
    if not all(found.values()):
        return [None] * len(names)
    return [found[folders[name]] if name in folders else None for name in names]
