"""The figures as pictures: what maps are worth by method and layer, by cost, and the maps themselves."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.quality.makers import OURS
from benchmarks.quality.measure import BASELINE
from benchmarks.quality.report import cost
from benchmarks.quality.scenes import Scene
from benchmarks.quality.scores import interval
from benchmarks.report import Figures
from pellucid.explain.methods import METHODS
from pellucid.network.spec import PIXELS
from pellucid.render.compose import positive
from pellucid.types import Floats

_COLOURS: Final = ("#6b6b6b", "#d9730d", "#0b6e99", "#7b3f9e")
_PANELS: Final = (
    ("hits", "pointing game, more is better"),
    ("energy", "energy in the box, more is better"),
    ("deletion", "deletion AUC, less is better"),
    ("insertion", "insertion AUC, more is better"),
)
# The measured network has no attention.
_METHODS: Final = {name: method for name, method in METHODS.items() if not method.spec.of_attention}
_STYLE: Final[dict[Any, Any]] = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def scores(figures: Figures, path: Path) -> None:
    """Our methods' four scores with their intervals, a colour for each layer, baselines as lines; energy by cost."""
    places = [*figures["layers"], PIXELS]
    colours = dict(zip(places, _COLOURS, strict=False))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(15, 4.4), layout="constrained")
        axes = list(figure.subplots(1, len(_PANELS) + 1))
        for ax, (name, title) in zip(axes, _PANELS, strict=False):
            _panel(ax, figures, name, title, colours)
        axes[0].set_yticks(range(len(_METHODS)), [method.spec.title for method in _METHODS.values()])
        for ax in axes[1:-1]:
            ax.set_yticks(range(len(_METHODS)), [])
        _by_cost(axes[-1], figures, colours)
        handles = axes[1].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=6, frameon=False)
        figure.savefig(path, dpi=130)


def _panel(ax: Axes, figures: Figures, name: str, title: str, colours: dict[str, str]) -> None:
    pictures = [scene["picture"] for scene in figures["scenes"]]
    methods = list(_METHODS)
    for place, (layer, colour) in enumerate(colours.items()):
        rows = [row for row in figures["rows"] if row["by"] == OURS and row["layer"] == layer and row[name]]
        heights = [methods.index(row["method"]) + 0.18 * (place - 1.5) for row in rows]
        means = [statistics.mean(row[name]) for row in rows]
        ends = np.array([interval(row[name], pictures[: len(row[name])]) for row in rows]).reshape(-1, 2)
        ax.hlines(heights, ends[:, 0], ends[:, 1], color=colour, linewidth=0.8, alpha=0.6)
        ax.plot(means, heights, "o", color=colour, markersize=4, label=layer)
    for row, style in zip((row for row in figures["rows"] if row["by"] == BASELINE), (":", "--"), strict=False):
        if row[name]:
            ax.axvline(statistics.mean(row[name]), color="black", linewidth=0.8, linestyle=style, label=row["method"])
    ax.set_title(title)
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.grid(axis="y", linewidth=0.2)


def _by_cost(ax: Axes, figures: Figures, colours: dict[str, str]) -> None:
    for row in figures["rows"]:
        if row["by"] == OURS:
            ax.plot(cost(row), statistics.mean(row["energy"]), "o", color=colours[row["layer"]], markersize=4)
    ax.set_xscale("log")
    ax.set_xlabel("cost, of a prediction")
    ax.set_title("energy in the box by cost")


def maps(
    pictures: Sequence[Scene],
    heat_maps: Sequence[dict[tuple[str, str, str], Floats]],
    layer: str,
    labels: Sequence[str],
    path: Path,
) -> None:
    """A row for each scene: the picture with its true boxes, and each of our methods' maps over it, at ``layer`` or,
    where that is the method's default, the pixels.
    """
    columns = [(name, PIXELS if method.spec.at_pixels else layer) for name, method in _METHODS.items()]
    with mpl.rc_context({"font.size": 6}):
        figure = Figure(figsize=(1.15 * (len(columns) + 1), 1.25 * len(pictures) + 0.2), layout="constrained")
        grid = figure.subplots(len(pictures), len(columns) + 1, squeeze=False)
        for line, (scene, found) in enumerate(zip(pictures, heat_maps, strict=True)):
            _picture(grid[line][0], scene, None, labels[scene.target])
            for ax, (name, place) in zip(grid[line][1:], columns, strict=True):
                title = _METHODS[name].spec.title if not line else ""
                _picture(ax, scene, found.get((OURS, name, place)), title)
        figure.savefig(path, dpi=110, pil_kwargs={"quality": 85})


def _picture(ax: Any, scene: Scene, heat: Floats | None, title: str) -> None:
    height, width = scene.pixels.shape[:2]
    ax.imshow(scene.pixels)
    if heat is not None:
        ax.imshow(positive(heat, width, height), cmap="turbo", alpha=0.55)
    for x0, y0, x1, y1 in scene.boxes:
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="white", linewidth=0.9))
    ax.set_title(title, pad=2)
    ax.set_axis_off()
