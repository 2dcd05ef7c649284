"""The maps of a class in clusters: the several reasons that a network has for one class.

SpRAy (Lapuschkin et al. 2019, arXiv 1902.10178): small maps, a graph of nearest neighbours, spectral clustering, and as
many clusters as the largest gap between the first eigenvalues of the graph's normalised Laplacian says.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pellucid.report.answers import Floats, Seen
from pellucid.report.measures import ClassSummary, on_grid, share_outside

# A class with fewer maps is not clustered.
LEAST: Final = 16
MOST_CLUSTERS: Final = 6
# Nearest neighbours of a map in the graph that is cut, and in that which shows whether a cluster is apart.
_NEIGHBOURS: Final = 8
_CLOSEST: Final = 4
# Maps are blurred by so many cells, so that a place is like the places beside it.
_BLUR: Final = 1.5
# What makes a cluster suspicious: at most this share of the class's maps; at most this share of links that leave it;
# and so much more of its evidence outside of the middle than of the other maps'.
SMALL: Final = 0.5
LEAVING: Final = 0.04
FURTHER: Final = 0.1


@dataclass(frozen=True)
class Cluster:
    """Pictures of a class whose maps are alike, the most typical first. ``mean_map`` ``[GRID, GRID]`` sums to 1.

    ``leaving`` is the share of the links between its maps and their nearest ones that lead to other clusters: near 0,
    the cluster is apart. ``outside`` is the share of the mean map outside of the middle. ``suspicious``: it is small,
    apart, and further from the middle.
    """

    pictures: tuple[Seen, ...]
    mean_map: Floats
    leaving: float
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

    If as many clusters as the eigenvalues say have no suspicious one among them, any other number up to MOST_CLUSTERS
    that has one is taken.
    """
    from scipy.ndimage import gaussian_filter  # imported late: a second, and none of other commands
    from scipy.sparse.csgraph import laplacian

    pictures = [seen for seen in of.pictures if seen.heat.max() > 0]
    if len(pictures) < LEAST:
        return Reasons(of.label, len(pictures))
    maps = np.stack([on_grid(seen.heat) for seen in pictures])
    blurred = gaussian_filter(maps, (0, _BLUR, _BLUR), mode="constant").reshape(len(maps), -1)
    links, closest = _linked(blurred, max(_NEIGHBOURS, round(np.log2(len(maps))))), _linked(blurred, _CLOSEST)
    values = np.linalg.eigvalsh(laplacian(links, normed=True))[: MOST_CLUSTERS + 1]
    usual = int(np.diff(values).argmax()) + 1
    found: list[Cluster] = []
    for count in (usual, *range(2, MOST_CLUSTERS + 1)):
        labels = _cut(links, count)
        clusters = [_cluster(pictures, maps, closest, labels == each) for each in range(count) if count > 1]
        if any(cluster.suspicious for cluster in clusters):
            found = clusters
            break
        found = found or (clusters if count == usual else [])
    return Reasons(of.label, len(pictures), tuple(sorted(found, key=lambda cluster: -len(cluster.pictures))))


def _linked(maps: Floats, neighbours: int) -> Floats:
    """The graph of maps ``[n, n]``: 1 where each of two is a nearest neighbour of the other, 0.5 where one is."""
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(maps, neighbours, include_self=False).toarray()
    return np.asarray((graph + graph.T) / 2)


def _cut(links: Floats, count: int) -> NDArray[np.int64]:
    """The cluster of each map, counted from 0."""
    from sklearn.cluster import SpectralClustering

    if count == 1:
        return np.zeros(len(links), np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected")  # clusters that are wholly apart
        return np.asarray(SpectralClustering(count, affinity="precomputed", random_state=0).fit_predict(links))


def _cluster(pictures: Sequence[Seen], maps: Floats, links: Floats, members: NDArray[np.bool_]) -> Cluster:
    mean_map = maps[members].mean(0)
    order = np.flatnonzero(members)[np.linalg.norm(maps[members] - mean_map, axis=(1, 2)).argsort()]
    leaving = float(links[members][:, ~members].sum() / links[members].sum())
    outside, others = share_outside(mean_map), share_outside(maps[~members].mean(0))
    suspicious = leaving <= LEAVING and members.mean() <= SMALL and outside - others >= FURTHER
    return Cluster(tuple(pictures[place] for place in order), mean_map, leaving, outside, bool(suspicious))
