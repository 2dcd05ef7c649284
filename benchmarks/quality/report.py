"""Raw figures -> the tables of docs/explanation/quality.md. Pure: dictionaries in, Markdown out."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from benchmarks.quality.makers import OURS
from benchmarks.quality.measure import BASELINE
from benchmarks.report import Figures, table
from pellucid.network.spec import PIXELS


def page(records: Sequence[Figures]) -> dict[str, str]:
    """The tables of composed scenes."""
    (figures,) = records
    about = f"{scenes(figures)} Of {figures['made']} scenes, those whose class is among the five best."
    return {
        "overview": f"{overview(figures, figures['agreement'])}\n\n{about}",
        "libraries": f"{libraries(figures)}\n\nThe scenes above.",
    }


def overview(figures: Figures, agreement: dict[str, dict[str, float]]) -> str:
    """Every method where it is taken by default: agreement with the oracles, cost, and what its maps are worth."""
    default = figures["default_layer"]
    rows = []
    for row in _of(figures, OURS):
        if row["layer"] == (PIXELS if (OURS, row["method"], PIXELS) in _by_key(figures) else default):
            agreed = ", ".join(f"{whose} {worst:.0e}" for whose, worst in agreement.get(row["method"], {}).items())
            rows.append(
                (
                    f"`{row['method']}`",
                    f"`{row['layer']}`",
                    agreed or "in the tests",
                    _short(cost(row)),
                    _mean(row["deletion"]),
                    _mean(row["insertion"]),
                    _mean(row["hits"]),
                    _mean(row["energy"]),
                    str(len(row["hits"])),
                )
            )
    rows += [
        (row["method"], "", "", "", *(_mean(row[name]) for name in ("deletion", "insertion", "hits", "energy")), n)
        for row in _of(figures, BASELINE)
        for n in [str(len(row["hits"]))]
    ]
    header = ("method", "layer", "oracles, largest difference", "cost, of a prediction", "deletion AUC ↓")
    return table((*header, "insertion AUC ↑", "pointing game ↑", "energy in the box ↑", "scenes"), rows)


def libraries(figures: Figures) -> str:
    """The other libraries' methods beside ours, on the scenes that both had."""
    own = _by_key(figures)
    rows = []
    for row in figures["rows"]:
        if row["by"] in (OURS, BASELINE):
            continue
        ours = own[OURS, row["method"], row["layer"]]
        n = min(len(row["hits"]), len(ours["hits"]))
        seconds = [statistics.median(each["seconds"][:n]) for each in (row, ours)]

        def both(name: str, count: int, row: Figures = row, ours: Figures = ours) -> str:
            return f"{_mean(row[name][:count])} / {_mean(ours[name][:count])}"

        rows.append(
            (
                row["by"],
                f"`{row['method']}`",
                f"`{row['layer']}`",
                str(n),
                f"{statistics.mean(row['cosine']):.3f} ({min(row['cosine']):.3f})",
                both("hits", n),
                both("energy", n),
                *(_beside(row, ours, name) for name in ("deletion", "insertion")),
                f"{1000 * seconds[0]:.0f} / {1000 * seconds[1]:.0f}",
                f"{seconds[0] / seconds[1]:.1f}",
            )
        )
    header = ("library", "method", "layer", "scenes", "cosine with ours (least)", "pointing game, theirs / ours")
    more = ("energy", "deletion AUC", "insertion AUC", "ms", "theirs of ours")
    return table((*header, *more), rows)


def _beside(row: Figures, ours: Figures, name: str) -> str:
    """A curve's area, theirs and ours, on the scenes on which theirs was taken: where their map is not ours."""
    taken = [number for number, value in enumerate(row[name]) if value is not None]
    theirs = [row[name][number] for number in taken]
    return f"{_mean(theirs)} / {_mean([ours[name][number] for number in taken])}" if taken else "the same"


def scenes(figures: Figures) -> str:
    """What was measured on, in words."""
    objects = Counter(scene["target"] for scene in figures["scenes"])
    listed = "; ".join(f"{name}: {count}" for name, count in sorted(objects.items()))
    pictures = len({scene["picture"] for scene in figures["scenes"]})
    ours, theirs = (
        1000
        * statistics.median(
            seconds for row in figures["rows"] if (row["by"] == OURS) is own for seconds in row["prediction"]
        )
        for own in (True, False)
    )
    return (
        f"`{figures['network']}`, {len(figures['scenes'])} scenes in {pictures} pictures ({listed}); the boxes cover "
        f"{figures['share']:.0%} of them. Maps: {figures['engine']}; curves scored by {figures['scorer']}. "
        f"A prediction takes {ours:.1f} ms by the engine, {theirs:.1f} ms by the plain network "
        "that the libraries have."
    )


def cost(row: Figures) -> float:
    """The time of a map, the prediction in it, by that of a prediction alone."""
    return float(statistics.median(row["seconds"]) / statistics.median(row["prediction"]))


def _of(figures: Figures, by: str) -> list[Figures]:
    return [row for row in figures["rows"] if row["by"] == by]


def _by_key(figures: Figures) -> dict[tuple[str, str, str], Figures]:
    return {(row["by"], row["method"], row["layer"]): row for row in figures["rows"]}


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f}" if values else "-"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
