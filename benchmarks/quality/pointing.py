"""Where maps point on photographs with boxes: TorchRay's protocol, methods by layer, networks and views."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, Final

import typer

import pellucid
from benchmarks.quality.boxes import Folder, Pair
from benchmarks.quality.run import Run
from benchmarks.quality.scores import energy, hit, interval
from benchmarks.report import Figures, table
from pellucid.library import Network
from pellucid.runtime import cores
from pellucid.trust.perturbations import centred_gaussian
from pellucid.types import Box, Floats

NETWORKS: Final = ("lite0", "lite0-plain", "lite2")
# Pixels of the picture: torchray/benchmark/pointing_game.py of github.com/facebookresearch/TorchRay.
TOLERANCE: Final = 15
BASELINE: Final = "centred Gaussian"
DEFAULT: Final = "grad-cam"
VIEW: Final = "centre"
SCORES: Final = ("pointing game", "pointing game, difficult", "energy in the box", "energy in the mask")
_BEST: Final = 5
_FINER: Final = 1.25
# The figures of a score, with the file of each.
Values = tuple[list[float], list[str]]


def measure(run: Run) -> Iterator[Figures]:
    """Every network in every view. Of the first network in the centre's view every method, by layer.

    Raises BadParameter if the folder's labels can't be read.
    """
    assert run.boxes is not None
    chosen = run.settings.model
    for name in NETWORKS if chosen == NETWORKS[0] else (chosen,):
        network = pellucid.open(name, precision="fp32")
        try:
            folder = Folder(run.boxes, network.spec)
        except (OSError, ValueError) as error:
            raise typer.BadParameter(str(error)) from None
        default = network.network.default_layer
        for view in views(network):
            every = name == chosen and view == VIEW
            methods = cheap(network, [*run.layers, default]) if every else {default: [DEFAULT]}
            yield from figures_of(network, view, methods, folder, folder.files[: 4 if run.quick else None])
            run.say(f"{name}, {view}")


def views(network: Network) -> dict[str, dict[str, Any]]:
    """The options of each view."""
    found: dict[str, dict[str, Any]] = {VIEW: {}, "squash": {"view": "squash"}, "whole": {"view": "whole"}}
    if network.sizes.multiple is not None:
        detail = round(network.spec.preprocess.resize * _FINER)
        found[f"whole, detail {detail}"] = {"view": "whole", "detail": detail}
    return found


def cheap(network: Network, layers: Sequence[str]) -> dict[str, list[str]]:
    """The methods of few passes, by layer: at the default one also those that run what lies behind it many times."""
    default = network.network.default_layer
    few = [each.name for each in network.methods if each.needs in ("activation", "gradient") and each.at_layers]
    more = [each.name for each in network.methods if each.needs in ("forwards", "position forwards")]
    return {layer: few + more * (layer == default) for layer in layers}


def figures_of(
    network: Network, view: str, methods: dict[str, list[str]], folder: Folder, files: Iterable[str]
) -> Iterable[Figures]:
    """The figures of each picture, all of its pairs: of each map whether it points at a box, and its energy there.

    A pair's class is the likeliest of its category. What a view does not show is a miss, and has no energy.
    """
    options, everything, alone = views(network)[view], len(network.spec.labels), Lock()

    def scored(file: str) -> Figures:
        path, pairs = folder.path / file, folder.pairs(file)
        with alone:  # the network has all cores; maps are scored beside it
            result = network.explain(path, include="predictions", top_k=everything, provenance=True, **options)
            assert result.predictions is not None
            assert result.frame is not None
            rank = {each.index: place for place, each in enumerate(result.predictions)}
            targets = [min(pair.classes, key=rank.__getitem__) for pair in pairs]
            maps: dict[tuple[str, int], Floats] = {}
            for layer, names in methods.items():
                found = network.heat_maps(path, target=[*dict.fromkeys(targets)], method=names, layer=layer, **options)
                maps |= {
                    (f"{method} {layer}", target): heat
                    for method, target, heat in zip(found.methods, found.targets, found.heat, strict=True)
                }
        over = x0, y0, x1, y1 = (found.box[0], found.box[1], found.box[2], found.box[3])
        middle = centred_gaussian(y1 - y0, x1 - x0)
        across, down = result.frame.scale
        seen: Sequence[Sequence[int]] = result.tiles or [over]
        return {
            "network": network.spec.name,
            "view": view,
            "default": f"{DEFAULT} {network.network.default_layer}",
            "picture": file,
            "pixels": sum(round((each[2] - each[0]) * across) * round((each[3] - each[1]) * down) for each in seen),
            "pairs": [
                {
                    "category": pair.category,
                    "recognised": rank[target] < _BEST,
                    "difficult": pair.difficult,
                    "seen": bool(pair.within[y0:y1, x0:x1].any()),
                    "maps": {BASELINE: _scores(middle, over, pair)}
                    | {name: _scores(heat, over, pair) for (name, whose), heat in maps.items() if whose == target},
                }
                for pair, target in zip(pairs, targets, strict=True)
            ],
        }

    with ThreadPoolExecutor(cores.available()) as pool:
        yield from pool.map(scored, files)


def _scores(heat: Floats, over: Box, pair: Pair) -> list[float | None]:
    x0, y0, x1, y1 = over
    places = [each[y0:y1, x0:x1] for each in (pair.within, pair.mask) if each is not None]
    shares: list[float | None] = [round(share, 4) for share in energy(heat, *places)]
    return [float(hit(heat, over, pair.boxes, TOLERANCE)), *shares, *[None] * (2 - len(shares))]


def by_method(records: Sequence[Figures]) -> list[tuple[str, str, list[Values]]]:
    """(method, layer, values of each of SCORES), late layers first and the baseline last: of the first network in the
    centre's view, and of the pairs that it recognises.
    """
    found = []
    records = [record for record in records if record["network"] == records[0]["network"] and record["view"] == VIEW]
    for name in records[0]["pairs"][0]["maps"]:
        method, _, layer = (name, "", "") if name == BASELINE else name.partition(" ")
        found.append((method, layer, _values(records, name)))
    places = [layer for _, layer, _ in found]
    return sorted(found, key=lambda each: -places.index(each[1]))


def _values(records: Sequence[Figures], name: str, recognised: bool = True) -> list[Values]:
    found: list[Values] = [([], []) for _ in SCORES]
    for record in records:
        for pair in record["pairs"]:
            if recognised and not pair["recognised"]:
                continue
            pointed, *shares = pair["maps"][name]
            for (values, pictures), value in zip(
                found, (pointed, pointed if pair["difficult"] else None, *shares), strict=True
            ):
                if value is not None:
                    values.append(value)
                    pictures.append(record["picture"])
    return found


def page(records: Sequence[Figures]) -> dict[str, str]:
    """Both tables."""
    return {"photographs": f"{methods_table(records)} Maps in fp32.", "views": f"{views_table(records)} Maps in fp32."}


def methods_table(records: Sequence[Figures]) -> str:
    """Every method at every layer. What differs from the default in the same pairs is marked."""
    found = by_method(records)
    usual = next(scores for method, layer, scores in found if f"{method} {layer}" == records[0]["default"])
    rows = [
        (f"`{method}`" if layer else method, f"`{layer}`" if layer else "", *map(_marked, scores, usual))
        for method, layer, scores in found
    ]
    counts = [len(values) for values, _ in found[0][2]]
    header = ("method", "layer", *(f"{name} ↑" for name in SCORES))
    about = (
        f"`{records[0]['network']}`, {VIEW}; {counts[0]} pairs in {len(set(found[0][2][0][1]))} pictures, "
        f"{counts[1]} of them difficult, {counts[3]} with a mask."
    )
    return f"{table(header, rows)}\n\n{about}"


def views_table(records: Sequence[Figures]) -> str:
    """The default method at the default layer of each network, beside the middle of the picture, by view.

    Over all pairs, what differs from the centre's view is marked.
    """
    groups: dict[tuple[str, str], list[Figures]] = {}
    for record in records:
        groups.setdefault((record["network"], record["view"]), []).append(record)
    rows = []
    for (network, view), found in groups.items():
        name = found[0]["default"]
        pairs = [pair for record in found for pair in record["pairs"]]
        pixels = [statistics.mean(record["pixels"] for record in each) for each in (found, groups[network, VIEW])]
        middle = _values(found, BASELINE)
        of_all, usual = (_values(each, name, recognised=False)[0] for each in (found, groups[network, VIEW]))
        middle_of_all = statistics.mean(_values(found, BASELINE, recognised=False)[0][0])
        rows.append(
            (
                f"`{network}`",
                view,
                *(f"{statistics.mean(pair[key] for pair in pairs):.0%}" for key in ("recognised", "seen")),
                *map(_beside, _values(found, name)[:2], middle[:2]),
                f"{_marked(of_all, usual)}, {middle_of_all:.2f}",
                *map(_cell, _values(found, name)[2:]),
                f"{pixels[0] / pixels[1]:.2f}",
            )
        )
    header = ("network", "view", "class in the top 5", "box in view", *(f"{name} (middle)" for name in SCORES[:2]))
    more = ("all pairs (middle)", *SCORES[2:], "pixels")
    count = sum(len(record["pairs"]) for record in found)
    return f"{table((*header, *more), rows)}\n\n{count} pairs in {len(found)} pictures."


def _marked(values: Values, usual: Values) -> str:
    if not values[0]:
        return "-"
    low, high = interval([one - other for one, other in zip(values[0], usual[0], strict=True)], values[1])
    return _cell(values) + (" ▲" if low > 0 else " ▼" if high < 0 else "")


def _cell(values: Values) -> str:
    if not values[0]:
        return "-"
    low, high = interval(*values)
    return f"{statistics.mean(values[0]):.2f} ({low:.2f}–{high:.2f})"


def _beside(values: Values, middle: Values) -> str:
    return f"{_cell(values)}, {statistics.mean(middle[0]):.2f}" if middle[0] else "-"
