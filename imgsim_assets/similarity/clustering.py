"""Clusters of linked nodes: connected components or stars, their bridges and similarities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from imgsim_assets.similarity.cosine import Doubles, Indices

# Pairs that are scored at once.
_PAIRS_PER_BATCH = 1 << 16


@dataclass(frozen=True)
class Cluster:
    """Node numbers, the canonical one first, and the links among them (a < b), sorted."""

    members: list[int]
    links: list[tuple[int, int]]


def connected_components(links: Indices, rank: Indices) -> list[Cluster]:
    """The connected components of a graph, each with its node of lowest rank first.

    Args:
        links: (m, 2) node numbers, a < b, sorted.
        rank: (n,) the rank of each node; components and their members are in its order.
    """
    from scipy.sparse import csgraph, csr_array

    ones = np.ones(len(links), dtype=np.int8)
    graph = csr_array((ones, (links[:, 0], links[:, 1])), shape=(len(rank), len(rank)))
    _, label = csgraph.connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for node in np.argsort(rank, kind="stable").tolist():
        members.setdefault(int(label[node]), []).append(node)
    inside: dict[int, list[tuple[int, int]]] = {}
    for a, b in links.tolist():
        inside.setdefault(int(label[a]), []).append((a, b))
    return [Cluster(nodes, inside.get(name, [])) for name, nodes in members.items()]


def star_clusters(links: Indices, rank: Indices) -> list[Cluster]:
    """Greedy stars: the free node of lowest rank with all free nodes linked to it, repeatedly.

    Args:
        links: (m, 2) node numbers, a < b, sorted.
        rank: (n,) the rank of each node.
    """
    neighbors: dict[int, list[int]] = {}
    for a, b in links.tolist():
        neighbors.setdefault(a, []).append(b)
        neighbors.setdefault(b, []).append(a)
    free = np.ones(len(rank), dtype=bool)
    clusters = []
    for center in np.argsort(rank, kind="stable").tolist():
        if not free[center]:
            continue
        nodes = [center, *sorted(node for node in neighbors.get(center, []) if free[node])]
        free[nodes] = False
        inside = set(nodes)
        pairs = ((a, b) for a in nodes for b in neighbors.get(a, []) if a < b and b in inside)
        clusters.append(Cluster(nodes, sorted(pairs)))
    return clusters


class Bridge(NamedTuple):
    """A link (a < b) whose removal leaves more components, and the items of the smaller part."""

    a: int
    b: int
    smaller_part: int


def find_bridges(links: Sequence[tuple[int, int]], counts: Indices) -> list[Bridge]:
    """The links of a graph whose removal leaves more components, sorted.

    By depth-first search: the link into a node is a bridge if no node below it reaches further
    back (Tarjan, "A note on finding the bridges of a graph", 1974). Iterative, since chains may
    be longer than the recursion limit.

    Args:
        links: pairs of node numbers, a < b.
        counts: (n,) how many items each node stands for.
    """
    neighbors: dict[int, list[tuple[int, int]]] = {}
    for number, (a, b) in enumerate(links):
        neighbors.setdefault(a, []).append((b, number))
        neighbors.setdefault(b, []).append((a, number))
    discovery: dict[int, int] = {}
    low_link: dict[int, int] = {}
    items = {node: int(counts[node]) for node in neighbors}  # of the subtree below each node
    bridges = []
    for root in neighbors:
        if root in discovery:
            continue
        discovery[root] = low_link[root] = len(discovery)
        path = [(root, -1, iter(neighbors[root]))]
        parts = []
        while path:
            node, parent_link, remaining = path[-1]
            step = next(remaining, None)
            if step is None:
                path.pop()
                if path:
                    parent = path[-1][0]
                    low_link[parent] = min(low_link[parent], low_link[node])
                    items[parent] += items[node]
                    if low_link[node] > discovery[parent]:
                        parts.append((links[parent_link], items[node]))
            elif step[1] != parent_link:
                other, number = step
                if other in discovery:
                    low_link[node] = min(low_link[node], discovery[other])
                else:
                    discovery[other] = low_link[other] = len(discovery)
                    path.append((other, number, iter(neighbors[other])))
        bridges += [Bridge(*link, min(part, items[root] - part)) for link, part in parts]
    return sorted(bridges)


def similarity_within(
    clusters: Sequence[Cluster], counts: Indices, similarity: Callable[[Indices, Indices], Doubles]
) -> tuple[Doubles, Doubles]:
    """The minimum and mean similarity over all pairs of each cluster's items.

    Clusters of the same number of nodes are scored together.

    Args:
        clusters: the clusters.
        counts: (n,) how many items each node stands for; their similarity is 1.
        similarity: scores pairs of nodes (p,).

    Returns:
        Minimum and mean, (len(clusters),) float64.
    """
    minimum, mean = np.empty(len(clusters)), np.empty(len(clusters))
    sizes = np.array([len(cluster.members) for cluster in clusters], dtype=np.int64)
    for size in np.unique(sizes):
        numbers = np.flatnonzero(sizes == size)
        step = max(1, _PAIRS_PER_BATCH // int(size) ** 2)
        for start in range(0, len(numbers), step):
            batch = numbers[start : start + step]
            members = np.sort([clusters[number].members for number in batch], axis=1)
            scores = _similarity_of(members, counts[members], similarity)
            minimum[batch], mean[batch] = scores
    return minimum, mean


def _similarity_of(
    members: Indices, counts: Indices, similarity: Callable[[Indices, Indices], Doubles]
) -> tuple[Doubles, Doubles]:
    """The minimum and mean (g,) of clusters with nodes (g, m) that have `counts` (g, m) items."""
    minimum = np.ones(len(members))
    pairs = (counts * (counts - 1) // 2).sum(axis=1).astype(np.float64)
    total = pairs.copy()
    for i, j in _pairs_of(members.shape[1]):
        ends = (members.take(side, axis=1).ravel() for side in (i, j))
        scores = similarity(*ends).reshape(len(members), -1)
        weights = counts.take(i, axis=1) * counts.take(j, axis=1)
        minimum = np.minimum(minimum, scores.min(axis=1))
        total += (scores * weights).sum(axis=1)
        pairs += weights.sum(axis=1)
    return minimum, total / pairs


def _pairs_of(count: int) -> Iterator[tuple[Indices, Indices]]:
    """All pairs of numbers below `count`, the lower first, in batches."""
    step = max(1, _PAIRS_PER_BATCH // max(1, count))
    for start in range(0, count, step):
        i, j = np.indices((min(step, count - start), count)).reshape(2, -1)
        i = i + start
        if len(i[i < j]):
            yield i[i < j], j[i < j]
