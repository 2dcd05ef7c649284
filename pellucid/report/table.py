"""The table beside the page: one row for each picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any, Final

from pellucid.report.contents import Report
from pellucid.report.measures import outside_middle

# Every table begins with these columns.
BEGINNING: Final = "picture,sha256,width,height,folder_label,predicted,"


def written(report: Report) -> str:
    """The table as CSV. Numbers are in full. A text that a spreadsheet would run as a formula begins with '."""
    kinds: dict[str, list[str]] = {}
    for finding in report.findings:
        kinds.setdefault(finding.seen.name, []).append(finding.kind)
    groups = {
        each.name: (number, cluster)
        for reason in report.reasons
        for number, cluster in enumerate(reason.clusters, 1)
        for each in cluster.pictures
    }
    distances = dict(zip((each.name for each in report.seen), report.gate_distances, strict=False))
    rows: list[Mapping[str, Any]] = []
    for each in report.seen:
        cam, info, trust = each.cam, each.result.image, each.cam.trust
        number, cluster = groups.get(each.name, (None, None))
        rows.append(
            {
                "picture": each.name,
                "sha256": info.sha256,
                "width": info.width,
                "height": info.height,
                "folder_label": each.truth,
                "predicted": each.best.label,
                "predicted_index": each.best.index,
                "predicted_score": each.best.number,
                "explained": each.target.label,
                "explained_index": each.target.index,
                "explained_score": each.target.number,
                "method": cam.method,
                "layer": cam.layer,
                **dict(zip(("box_x0", "box_y0", "box_x1", "box_y1"), cam.box, strict=True)),
                "map_min": cam.raw.min,
                "map_max": cam.raw.max,
                "outside_middle": outside_middle(each.heat),
                "cluster": number,
                "cluster_gap": cluster and cluster.gap,
                "cluster_suspicious": cluster and int(cluster.suspicious),
                "trust_finding": trust and trust.finding,
                "trust_advantage": trust and trust.advantage,
                "trust_p_value": trust and trust.p_value,
                "gate_furthest": distances.get(each.name, (None, None))[0],
                "gate_distance": distances.get(each.name, (None, None))[1],
                "findings": " ".join(kinds.get(each.name, [])),
                "error": None,
                **{f"gate_mean:{layer}": float(weights.mean()) for layer, weights in each.gates.items()},
            }
        )
    rows += ({"picture": each.name, "error": each.error} for each in report.unseen)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _plain(value) for column, value in row.items()} for row in rows)
    return file.getvalue()


def _plain(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
