"""The maps of a class in clusters: the several reasons that a network has for one class.

SpRAy (Lapuschkin et al. 2019, arXiv 1902.10178): small maps, a graph of nearest neighbours, spectral clustering, and as
many clusters as the largest gap between the eigenvalues of the graph's Laplacian says.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.sparse.csgraph import laplacian
from sklearn.cluster import SpectralClustering
from sklearn.metrics import silhouette_samples
from sklearn.neighbors import kneighbors_graph

from pellucid.report.answers import Floats, Seen
from pellucid.report.measures import ClassSummary, on_grid, outside_middle

# A class with fewer maps is not clustered.
LEAST: Final = 16
MOST_CLUSTERS: Final = 6
# What makes a cluster suspicious: at most this share of the class, and a silhouette of at least this.
SMALL: Final = 0.5
APART: Final = 0.4


@dataclass(frozen=True)
class Cluster:
    """Pictures of a class whose maps are alike, the most typical first. ``mean_map`` ``[GRID, GRID]`` sums to 1.

    ``apart`` is the mean silhouette of its maps, -1 to 1: near 1, they are like one another and unlike all others.
    ``outside`` is the share of the mean map outside of the middle. ``suspicious`` has the reason in words, or nothing.
    """

    pictures: tuple[Seen, ...]
    mean_map: Floats
    apart: float
    outside: float
    suspicious: str


@dataclass(frozen=True)
class Reasons:
    """The clusters of the ``maps`` of a class, the largest first; none if there are few maps, or no groups in them."""

    label: str
    maps: int
    clusters: tuple[Cluster, ...] = ()


def reasons(of: ClassSummary) -> Reasons:
    """The clusters of the maps of a class. A map without evidence for the class is left out."""
    pictures = [seen for seen in of.pictures if seen.heat.max() > 0]
    if len(pictures) < LEAST:
        return Reasons(of.label, len(pictures))
    maps = np.stack([on_grid(seen.heat).ravel() for seen in pictures])
    labels = grouped(maps)
    count = int(labels.max()) + 1
    if count == 1:
        return Reasons(of.label, len(pictures))
    silhouettes = silhouette_samples(maps, labels)
    found = [_cluster(pictures, maps, silhouettes, labels == each) for each in range(count)]
    return Reasons(of.label, len(pictures), tuple(sorted(found, key=lambda cluster: -len(cluster.pictures))))


def grouped(maps: Floats) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The cluster of each map ``[n, features]``, counted from 0."""
    graph = kneighbors_graph(maps, max(3, round(np.log(len(maps)))), include_self=False)
    graph = graph.maximum(graph.T)
    values = np.linalg.eigvalsh(laplacian(graph, normed=True).toarray())[: MOST_CLUSTERS + 1]
    count = int(np.diff(values).argmax()) + 1
    if count == 1:
        return np.zeros(len(maps), np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected")  # clusters that are wholly apart
        return np.asarray(SpectralClustering(count, affinity="precomputed", random_state=0).fit_predict(graph))


def _cluster(pictures: Sequence[Seen], maps: Floats, silhouettes: Floats, members: np.ndarray) -> Cluster:
    mean = maps[members].mean(0)
    order = np.flatnonzero(members)[np.linalg.norm(maps[members] - mean, axis=1).argsort()]
    mean_map = mean.reshape(int(len(mean) ** 0.5), -1)
    apart, outside = float(silhouettes[members].mean()), outside_middle(mean_map) or 0.0
    return Cluster(tuple(pictures[place] for place in order), mean_map, apart, outside, "")
