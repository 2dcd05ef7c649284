"""Writes the page. Every text of a picture, a network or a reply is escaped."""

from __future__ import annotations

import hashlib
import io
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Final

import numpy as np
from PIL import Image

from pellucid.render import colormap, compose, encode
from pellucid.report import clusters, measures, outliers
from pellucid.report.answers import Floats, Seen
from pellucid.report.contents import Report
from pellucid.report.measures import Spread
from pellucid.report.outliers import TITLES, Finding, Kind
from pellucid.schemas import Picture

_HERE: Final = Path(__file__).parent
# Longer side in pixels of a map, and of a picture in a list.
_MAP: Final = 104
_SMALL: Final = 144
# Pictures that a list shows of one finding, and of one cluster.
_LISTED: Final = 8
_EXAMPLES: Final = 8
# A class with fewer pictures has no row.
_FEW: Final = 3
# Mean weights of a gate that lie closer together count as equal.
_LEAST_SPREAD: Final = 1e-4


def written(report: Report) -> str:
    """The page as HTML. It loads nothing, and runs no script but its own."""
    script = "\n" + (_HERE / "page.js").read_text("utf-8")
    numbers = {seen.name: number for number, seen in enumerate(report.seen, 1)}
    usual = measures.gate_spreads(report.seen)
    return Template((_HERE / "page.html").read_text("utf-8")).substitute(
        folder=escape(report.title),
        model=escape(report.model.name),
        explained=len(report.seen),
        network=escape(report.model.title or report.model.name),
        asked=_asked(report),
        classes=_classes(report, usual),
        outliers=_outliers(report, numbers) or "<p>None.</p>",
        reasons=_reasons(report, numbers),
        **_sheet(report, usual),
        unseen=_unseen(report) if report.unseen else "<p>All pictures were explained.</p>",
        script=script,
        script_sha256=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _asked(report: Report) -> str:
    provenance, options = report.provenance, report.provenance.options
    engine = provenance.engine
    target = ", ".join(map(str, options["target"])) or "the most probable class of each picture"
    facts = {
        "Network": f"{report.model.name}: {report.model.title}; {provenance.network.source}",
        "Parameters": f"SHA-256 {provenance.network.parameters_sha256}",
        "Explained": f"{target}; {', '.join(options['method'])} at {', '.join(options['layer'])}",
        "View": f"{options['view']}; preprocessing crops to {' x '.join(map(str, provenance.preprocess.crop))} pixels",
        "Trust": "tested" if any(seen.cam.trust for seen in report.seen) else "not tested (--trust tests each map)",
        "Atlas": f"{report.model.atlas.pictures} pictures" if report.model.atlas else "none",
        "Engine": f"{engine.name} on {engine.device}, {engine.precision}; {engine.processor}",
        "Versions": ", ".join(f"{name} {version}" for name, version in provenance.versions.items()),
    }
    everything = json.dumps(provenance.model_dump(exclude_none=True), indent=1, ensure_ascii=False)
    return (
        f"{_facts(facts)}<details class=screen><summary>The whole provenance, as the service gave it</summary>"
        f"<pre>{escape(everything)}</pre></details>"
    )


def _classes(report: Report, usual: Mapping[str, Spread]) -> str:
    tested = any(each.findings for each in report.classes)
    known = any(each.right[1] for each in report.classes)
    other = any(each.predicted != len(each.pictures) for each in report.classes)
    unit = {"linear": "Mean value", "dense": "Mean score"}.get(report.model.output.kind, "Mean confidence")
    head = ["Class", "Pictures", *["Predicted"] * other, unit, *["Right"] * known, "Mean map", "Outside the middle"]
    head += ["Trust test"] * tested + ["Gates"] * bool(usual)
    rows = []
    for each in report.classes:
        if len(each.pictures) < _FEW:
            continue
        cells = [f'<a href="#pictures" data-label="{each.index}">{len(each.pictures)}</a>']
        cells += [str(each.predicted)] * other
        cells += [f"{each.score:.4g}" if report.model.output.kind == "linear" else f"{each.score:.0%}"]
        cells += [f"{each.right[0]} of {each.right[1]}"] * known
        cells += [_map(each.mean_map, f"Mean map of {each.label}"), f"{each.outside:.0%}"]
        cells += [", ".join(f"{each.findings[name]} {name}" for name in _FINDINGS if each.findings[name])] * tested
        if usual:
            medians = {layer: spread.median for layer, spread in each.gates.items()}
            cells.append(_strip(usual, medians, f"Mean weights of gates for {each.label}"))
        rows.append((each.label, cells))
    few = [
        f'<a href="#pictures" data-label="{each.index}">{escape(each.label)}</a> {len(each.pictures)}'
        for each in report.classes
        if len(each.pictures) < _FEW
    ]
    said = f"{len(few)} classes with fewer than {_FEW} pictures"
    rest = f"<details><summary>{said}</summary><p>{', '.join(few)}</p></details>" if few else ""
    table = _table("Each explained class", head, rows) if rows else ""
    return table + rest


_FINDINGS: Final = ("follows", "unclear", "contradicts")


def _outliers(report: Report, numbers: Mapping[str, int]) -> str:
    rules: dict[Kind, str] = {
        "contradicts": "The same map marks more of what the network depends on at random places than here.",
        "unclear": "The same map marks as much of what the network depends on at random places.",
        "wrong": "The subfolder names a class other than the network’s most probable one.",
        "unsure": f"The most probable class has less than {outliers.UNSURE:.0%}.",
        "border": f"At least {outliers.BORDER:.0%} of the evidence lies outside of the middle half of the frame.",
        "empty": "The map has no positive value.",
        "cluster": "The cluster is small, apart from the other maps of the class, and further from the middle.",
        "gates": f"More than {outliers.FAR:g} robust deviations from the median of the folder’s pictures.",
        "atlas": "Weights that no picture of the atlas had.",
    }
    parts = []
    for kind, group in groupby(report.findings, key=lambda finding: finding.kind):
        found = list(group)
        items = "".join(
            f"<li>{_small(each.seen)}<p>{_link(each.seen, numbers)}<br>{escape(each.sentence)}</p></li>"
            for each in found[:_LISTED]
        )
        rest = f'<p class="soft screen"><a href="#pictures" data-kind="{kind}">All {len(found)} below</a></p>'
        parts.append(
            f'<h3>{TITLES[kind]} <span class="badge">{len(found)}</span></h3><p class="soft">{rules[kind]}</p>'
            f'<ul class="found">{items}</ul>{rest if len(found) > _LISTED else ""}'
        )
    return "".join(parts)


def _reasons(report: Report, numbers: Mapping[str, int]) -> str:
    parts = []
    for each in report.reasons:
        if not each.clusters:
            continue
        cards = "".join(_cluster(cluster, each.label, numbers) for cluster in each.clusters)
        parts.append(f'<h3>{escape(each.label)}{_chosen(each)}</h3><div class="reasons">{cards}</div>')
    alike = [each for each in report.reasons if not each.clusters and each.maps >= clusters.LEAST]
    whole = [f"{escape(each.label)} ({each.maps}){_chosen(each)}" for each in alike]
    few = sum(each.maps < clusters.LEAST for each in report.reasons)
    parts.append(f"<p>Maps that form no clusters: {', '.join(whole)}.</p>" if whole else "")
    parts.append(f"<p>Classes with fewer than {clusters.LEAST} maps: {few}.</p>" if few else "")
    return "".join(parts)


def _chosen(reason: clusters.Reasons) -> str:
    return f": {clusters.MOST} of {reason.maps} maps, evenly chosen" if reason.maps > clusters.MOST else ""


def _cluster(cluster: clusters.Cluster, label: str, numbers: Mapping[str, int]) -> str:
    badge = ""
    if cluster.suspicious:
        badge = '<p><span class="badge alarm">Suspicious</span> Small, apart, and further from the middle.</p>'
    examples = "".join(
        f'<a href="#p{numbers[seen.name]}" title="{escape(seen.name)}">{_small(seen)}</a>'
        for seen in cluster.pictures[:_EXAMPLES]
    )
    return (
        f'<div class="cluster{" alarm" if cluster.suspicious else ""}">'
        f"{_map(cluster.mean_map, f'Mean map of a cluster of {label}')}"
        f"<div><p><b>{len(cluster.pictures)} pictures</b></p><p>{cluster.outside:.0%} outside the middle. "
        f"Gap to the other maps: {cluster.gap:.1f}.</p>{badge}</div>"
        f'<div class="examples">{examples}</div></div>'
    )


def _sheet(report: Report, usual: Mapping[str, Spread]) -> dict[str, str]:
    """The choices of the filters, and the pictures."""
    of: dict[str, list[Finding]] = {}
    for finding in report.findings:
        of.setdefault(finding.seen.name, []).append(finding)
    kinds = [kind for kind in TITLES if any(finding.kind == kind for finding in report.findings)]
    return {
        "labels": _options([(str(each.index), each.label) for each in report.classes]),
        "kinds": _options([(kind, TITLES[kind]) for kind in kinds]),
        "tiles": "\n".join(
            _tile(number, seen, of.get(seen.name, []), usual) for number, seen in enumerate(report.seen, 1)
        ),
    }


def _tile(number: int, seen: Seen, found: Sequence[Finding], usual: Mapping[str, Spread]) -> str:
    best, cam, info = seen.best, seen.cam, seen.result.image
    known = " ".join((seen.name, best.label, seen.target.label, seen.truth or "")).lower()
    kinds = " ".join(finding.kind for finding in found)
    overlay = cam.overlay
    drawn = ""
    if overlay:
        alt = f"{seen.name}: heat map for {seen.target.label} over the photograph"
        drawn = _img(f"data:{overlay.media_type};base64,{overlay.data}", alt, overlay.width, overlay.height)
    flags = (
        f'<span class="flags">{escape(", ".join(TITLES[finding.kind] for finding in found))}</span>' if found else ""
    )
    facts = {
        "Explained": f"{seen.target.label} ({seen.target.score}), {cam.method} at {cam.layer}",
        "Map": f"{cam.raw.min:.4g} to {cam.raw.max:.4g}, {'x'.join(map(str, cam.raw.shape))} positions; "
        f"{_share(measures.outside_middle(seen.heat))} outside the middle",
        "File": seen.name,
        "Picture": f"{info.width} x {info.height} pixels; seen from ({cam.box[0]}, {cam.box[1]}) to ({cam.box[2]}, "
        f"{cam.box[3]}); SHA-256 {info.sha256[:16]}…",
    }
    if seen.truth:
        facts["Folder"] = seen.truth
    if cam.trust:
        facts["Trust"] = cam.trust.sentence
    if seen.gates:
        means = {layer: float(weights.mean()) for layer, weights in seen.gates.items()}
        strip = f'<div><p class="soft">Gates</p>{_strip(usual, means, "Mean weights of gates")}</div>'
    else:
        strip = ""
    rows = [(each.label, [each.score]) for each in seen.result.predictions or []]
    photograph = ""
    if seen.photograph:
        source = f"data:image/webp;base64,{b64encode(seen.photograph).decode()}"
        photograph = _img(source, f"{seen.name}: the photograph")
    name = f'<span class="name" title="{escape(seen.name)}">{escape(seen.name.rpartition("/")[2])}</span>'
    reasons = "".join(f"<li>{escape(finding.sentence)}</li>" for finding in found)
    return (
        f'<details id="p{number}" data-label="{seen.target.index}" data-kinds="{kinds}" '
        f'data-text="{escape(known)}"><summary>{drawn}<b>{escape(best.label)}, {escape(best.score)}</b>'
        f'{name}{flags}</summary><div class="shown">{photograph}<div>'
        f"{_table('Predictions', ['Class', 'Score'], rows) if rows else ''}{_facts(facts)}{strip}"
        f"{f'<ul>{reasons}</ul>' if reasons else ''}</div></div></details>"
    )


def _unseen(report: Report) -> str:
    rows = [(each.name, [escape(each.error)]) for each in report.unseen]
    return _table("Pictures without an answer", ["Picture", "Error"], rows)


def _facts(facts: Mapping[str, str]) -> str:
    return (
        f'<dl class="facts">{"".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())}</dl>'
    )


def _table(caption: str, head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table. The names of ``rows`` are texts, their cells HTML."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _options(choices: Iterable[tuple[str, str]]) -> str:
    return "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in choices)


def _link(seen: Seen, numbers: Mapping[str, int]) -> str:
    return f'<a href="#p{numbers[seen.name]}">{escape(seen.name)}</a>'


def _img(source: str, alt: str, width: int = 0, height: int = 0, kind: str = "") -> str:
    size = f' width="{width}" height="{height}"' if width else ""
    return f'<img src="{source}" alt="{escape(alt)}"{size}{f" class={kind}" if kind else ""} decoding="async">'


def _small(seen: Seen) -> str:
    """The overlay of a picture, or the photograph, small."""
    overlay = seen.cam.overlay
    data = bytes(overlay) if overlay else seen.photograph
    if not data:
        return ""
    with Image.open(io.BytesIO(data)) as image:
        small = Picture.small(image, _SMALL, "image/webp")
    source = f"data:{small.media_type};base64,{small.data}"
    return _img(source, f"{seen.name}: heat map for {seen.target.label}", small.width, small.height)


def _map(mean: Floats, alt: str) -> str:
    """A mean map in colour: blue is little evidence, red the most in this map."""
    levels = compose.mask(mean.astype(np.float32), (_MAP, _MAP), False)
    picture = encode.encode(levels, "image/png", colormap.table("turbo"))
    source = f"data:image/png;base64,{b64encode(picture.data).decode()}"
    return _img(source, f"{alt}: {measures.share_outside(mean):.0%} outside the middle", _MAP, _MAP, "map")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _strip(usual: Mapping[str, Spread], values: Mapping[str, float], name: str) -> str:
    """A gate in each column: the band is the usual range of its mean weight in the folder, the dot its value here."""
    step, height = max(4, min(18, 320 // max(1, len(usual)))), 40
    marks = []
    for place, (gate, spread) in enumerate(usual.items()):
        relative = (values[gate] - spread.low) / max(spread.high - spread.low, _LEAST_SPREAD)
        y = height * (0.75 - 0.5 * min(max(relative, -0.4), 1.4))
        marks.append(
            f'<rect x="{place * step + 1}" y="{height / 4:g}" width="{step - 2}" height="{height / 2:g}" rx="2"/>'
            f'<circle cx="{(place + 0.5) * step:g}" cy="{y:.1f}" r="2.2" fill="currentColor"><title>{escape(gate)}: '
            f"{values[gate]:.3f}, usually {spread.low:.3f} to {spread.high:.3f}</title></circle>"
        )
    said = "; ".join(f"{gate} {values[gate]:.3f}" for gate in list(usual)[:32])
    size = f'width="{step * len(usual)}" height="{height}" viewBox="0 0 {step * len(usual)} {height}"'
    return f'<svg class="strip" role="img" aria-label="{escape(f"{name}: {said}")}" {size}>{"".join(marks)}</svg>'
