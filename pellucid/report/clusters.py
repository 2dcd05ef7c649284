"""The maps of a class in clusters: the several reasons that a network has for one class.

SpRAy (Lapuschkin et al. 2019, arXiv 1902.10178): small maps, a graph of nearest neighbours, spectral clustering, and as
many clusters as the largest gap between the first eigenvalues of the graph's normalised Laplacian says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pellucid.report.answers import Floats, Seen
from pellucid.report.measures import ClassSummary, on_grid, share_outside

# A class with fewer maps is not clustered. Of more than MOST maps, so many are, evenly chosen.
LEAST: Final = 16
MOST: Final = 2_000
MOST_CLUSTERS: Final = 6
# Nearest neighbours of a map in the graph that is cut, and in its own cluster for the gap around it.
_NEIGHBOURS: Final = 8
_CLOSEST: Final = 4
# Maps are blurred by so many cells, so that a place is like the places beside it.
_BLUR: Final = 1.5
# What makes a cluster suspicious: at most this share of the class's maps; at least this gap around it; and so much more
# of its evidence outside of the middle than of the other maps'. docs/how-to/report.md has the rate of false alarms.
SMALL: Final = 0.5
GAP: Final = 1.25
FURTHER: Final = 0.1


@dataclass(frozen=True)
class Cluster:
    """Pictures of a class whose maps are alike, the most typical first. ``mean_map`` ``[GRID, GRID]`` sums to 1.

    ``gap``: nine in ten of its maps are at least ``gap * d`` from all maps of other clusters, and within ``d`` of 4 of
    their own; at most 100, 0 of fewer than 5 maps. ``outside`` is the share of the mean map outside of the middle.
    ``suspicious``: it is small, apart, and further from the middle.
    """

    pictures: tuple[Seen, ...]
    mean_map: Floats
    gap: float
    outside: float
    suspicious: bool


@dataclass(frozen=True)
class Reasons:
    """The clusters of the ``maps`` of a class, the largest first; none if there are few maps, or no groups in them."""

    label: str
    maps: int
    clusters: tuple[Cluster, ...] = ()


def reasons(of: ClassSummary) -> Reasons:
    """The clusters of the maps of a class. A map without evidence for the class is left out.

    A cluster can come in two where the eigenvalues say more clusters than there are. So fewer are tried first, and
    the first number with a suspicious cluster is taken.
    """
    from scipy.ndimage import gaussian_filter  # imported late: a second, and none of other commands
    from scipy.sparse.csgraph import laplacian
    from scipy.sparse.linalg import eigsh
    from sklearn.cluster import KMeans
    from sklearn.metrics import pairwise_distances
    from sklearn.neighbors import kneighbors_graph

    every = [seen for seen in of.pictures if seen.heat.max() > 0]
    if len(every) < LEAST:
        return Reasons(of.label, len(every))
    pictures = [every[place] for place in np.linspace(0, len(every) - 1, min(len(every), MOST)).astype(int)]
    maps = np.stack([on_grid(seen.heat) for seen in pictures])
    blurred = gaussian_filter(maps, (0, _BLUR, _BLUR), mode="constant").reshape(len(maps), -1)
    graph = kneighbors_graph(blurred, max(_NEIGHBOURS, round(np.log2(len(maps)))), include_self=False)
    # 1 where each of two maps is a nearest neighbour of the other, 0.5 where one is.
    normed, degrees = laplacian((graph + graph.T) / 2, normed=True, return_diag=True)
    start = np.random.default_rng(0).random(len(maps))
    values, vectors = eigsh(normed, MOST_CLUSTERS + 1, sigma=-0.01, v0=start)  # the smallest, all at least 0
    order = values.argsort()
    places = vectors[:, order] / degrees[:, None]
    distances = pairwise_distances(blurred)
    clusters: list[Cluster] = []
    for count in range(2, int(np.diff(values[order]).argmax()) + 2):
        labels = KMeans(count, n_init=10, random_state=0).fit_predict(places[:, :count])
        clusters = [_cluster(pictures, maps, distances, labels == each) for each in range(count)]
        if any(cluster.suspicious for cluster in clusters):
            break
    return Reasons(of.label, len(every), tuple(sorted(clusters, key=lambda cluster: -len(cluster.pictures))))


def _cluster(pictures: Sequence[Seen], maps: Floats, distances: Floats, members: NDArray[np.bool_]) -> Cluster:
    mean_map = maps[members].mean(0)
    order = np.flatnonzero(members)[np.linalg.norm(maps[members] - mean_map, axis=(1, 2)).argsort()]
    gap = 0.0
    if len(order) > _CLOSEST:
        own = np.partition(distances[np.ix_(members, members)], _CLOSEST, axis=1)[:, _CLOSEST]  # 0 is to itself
        away = float(np.percentile(distances[np.ix_(members, ~members)].min(1), 10))
        gap = away / max(float(np.percentile(own, 90)), away / 100, 1e-12)
    outside, others = share_outside(mean_map), share_outside(maps[~members].mean(0))
    suspicious = gap >= GAP and members.mean() <= SMALL and outside - others >= FURTHER
    return Cluster(tuple(pictures[place] for place in order), mean_map, gap, outside, bool(suspicious))
