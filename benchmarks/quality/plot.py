"""The figures as pictures: what maps are worth by method and layer, by cost, and the maps themselves."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.quality.makers import OURS
from benchmarks.quality.pointing import SCORES, Values
from benchmarks.quality.scenes import Scene
from benchmarks.quality.scores import interval
from pellucid.explain.methods import METHODS
from pellucid.network.spec import PIXELS
from pellucid.ranks import spearman
from pellucid.render.compose import positive
from pellucid.types import Floats, InputPixels

_COLOURS: Final = ("#d9730d", "#0b6e99", "#7b3f9e", "#6b6b6b")  # late layers first
# The measured network has no attention.
_METHODS: Final = {name: method for name, method in METHODS.items() if not method.spec.of_attention}
_STYLE: Final[dict[Any, Any]] = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def scores(found: Sequence[tuple[str, str, list[Values]]], path: Path) -> None:
    """The scores of methods with their intervals, a colour for each layer; the baseline's as a line."""
    methods = list(dict.fromkeys(method for method, layer, _ in found if layer))
    colours = dict(zip(dict.fromkeys(layer for _, layer, _ in found if layer), _COLOURS, strict=False))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12, 3.8), layout="constrained")
        axes = list(figure.subplots(1, len(SCORES), sharey=True))
        for number, (ax, title) in enumerate(zip(axes, SCORES, strict=True)):
            for place, (layer, colour) in enumerate(colours.items()):
                rows = [(method, each[number]) for method, where, each in found if where == layer and each[number][0]]
                heights = [methods.index(method) + 0.18 * (place - 1.5) for method, _ in rows]
                ends = np.array([interval(*values) for _, values in rows]).reshape(-1, 2)
                ax.hlines(heights, ends[:, 0], ends[:, 1], color=colour, linewidth=0.8, alpha=0.6)
                means = [statistics.mean(values) for _, (values, _) in rows]
                ax.plot(means, heights, "o", color=colour, markersize=4, label=layer)
            for name, layer, each in found:
                if not layer and each[number][0]:
                    ax.axvline(statistics.mean(each[number][0]), color="black", linewidth=0.8, ls=":", label=name)
            ax.set_title(title)
            ax.grid(axis="y", linewidth=0.2)
        axes[0].set_yticks(range(len(methods)), [METHODS[method].spec.title for method in methods])
        axes[0].set_ylim(len(methods) - 0.5, -0.5)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
        figure.savefig(path, dpi=130)


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


def damage(pictures: Mapping[str, InputPixels], maps: Mapping[str, Sequence[Floats]], path: Path) -> None:
    """A column for each damage: the picture, and below it the maps of each network, with their rank correlation with
    the first column's.
    """
    with mpl.rc_context({"font.size": 7}):
        figure = Figure(figsize=(1.15 * len(pictures), 1.3 * (1 + len(maps))), layout="constrained")
        grid = figure.subplots(1 + len(maps), len(pictures))
        for column, (title, pixels) in enumerate(pictures.items()):
            height, width = pixels.shape[:2]
            grid[0][column].imshow(pixels)
            grid[0][column].set_title(title, pad=2)
            for line, heats in zip(grid[1:], maps.values(), strict=True):
                line[column].imshow(pixels)
                line[column].imshow(positive(heats[column], width, height), cmap="turbo", alpha=0.55)
                line[column].set_title(f"{spearman(heats[0], heats[column]) or 0:.2f}" if column else "", pad=2)
        for ax in grid.ravel():
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for line, title in zip(grid[1:], maps, strict=True):
            line[0].set_ylabel(title)
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
