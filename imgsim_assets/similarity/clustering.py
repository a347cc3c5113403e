"""Clusters of linked nodes: connected components, stars, and the bridges that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from imgsim_assets.similarity.cosine import Indices


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


def find_bridges(links: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The links of a graph whose removal leaves more components, sorted.

    By depth-first search: the link into a node is a bridge if no node below it reaches further
    back (Tarjan, "A note on finding the bridges of a graph", 1974). Iterative, since chains may
    be longer than the recursion limit.
    """
    neighbors: dict[int, list[tuple[int, int]]] = {}
    for number, (a, b) in enumerate(links):
        neighbors.setdefault(a, []).append((b, number))
        neighbors.setdefault(b, []).append((a, number))
    entered: dict[int, int] = {}
    reach: dict[int, int] = {}
    bridges = []
    for root in neighbors:
        if root in entered:
            continue
        entered[root] = reach[root] = len(entered)
        path = [(root, -1, iter(neighbors[root]))]
        while path:
            node, entry_link, rest = path[-1]
            step = next(rest, None)
            if step is None:
                path.pop()
                if path:
                    parent = path[-1][0]
                    reach[parent] = min(reach[parent], reach[node])
                    if reach[node] > entered[parent]:
                        bridges.append(links[entry_link])
            elif step[1] != entry_link:
                other, number = step
                if other in entered:
                    reach[node] = min(reach[node], entered[other])
                else:
                    entered[other] = reach[other] = len(entered)
                    path.append((other, number, iter(neighbors[other])))
    return sorted(bridges)
