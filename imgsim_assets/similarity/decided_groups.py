"""Clusters of linked nodes after people's decisions: no pair judged different is in one.

Only connected components that hold such a pair change. There, links join nodes from the strongest
to the weakest, people's matches first, and a link that would bring a different pair into one
cluster is left out. So a component parts at its weakest links, whatever the order in which
decisions were made, and all other groups stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from imgsim_assets.similarity.clustering import Cluster, connected_components, star_clusters
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.settings import Linkage

Link = tuple[int, int]


@dataclass(frozen=True)
class DecidedNodes:
    """People's decisions about pairs of nodes, a < b.

    Attributes:
        matches: (m, 2) pairs that are linked whatever their similarity.
        different: (d, 2) pairs that are never in one cluster.
    """

    matches: Indices
    different: Indices


def decided_clusters(
    links: Indices,
    rank: Indices,
    linkage: Linkage,
    decided: DecidedNodes,
    similarity: Callable[[Indices, Indices], Doubles],
) -> list[Cluster]:
    """The clusters of a graph, each with its node of lowest rank first.

    Args:
        links: (m, 2) node numbers, a < b, sorted.
        rank: (n,) the rank of each node.
        linkage: connected or star.
        decided: people's decisions.
        similarity: scores pairs of nodes (p,).
    """
    if len(decided.matches):
        links = np.unique(np.concatenate([links, decided.matches]), axis=0)
    cluster = star_clusters if linkage == "star" else connected_components
    if not len(decided.different):
        return cluster(links, rank)
    components = connected_components(links, rank)
    label = np.empty(len(rank), dtype=np.int64)
    for number, component in enumerate(components):
        label[component.members] = number
    a, b = label[decided.different[:, 0]], label[decided.different[:, 1]]
    divided = set(a[a == b].tolist())
    is_divided = np.isin(label, list(divided))
    # The nodes of components that stay have their links, the others none.
    clusters = [
        each
        for each in cluster(links[~is_divided[links[:, 0]]], rank)
        if not is_divided[each.members[0]]
    ]
    apart = _neighbors(map(tuple, decided.different.tolist()))
    matches = set(map(tuple, decided.matches.tolist()))
    for number in sorted(divided):
        component = components[number]
        ordered = _strongest_first(component.links, rank, matches, similarity)
        divide = _stars if linkage == "star" else _joined
        parts = divide(component.members, ordered, apart)
        clusters += _with_links(parts, component.links, rank)
    return clusters


def _strongest_first(
    links: list[Link],
    rank: Indices,
    matches: set[Link],
    similarity: Callable[[Indices, Indices], Doubles],
) -> list[Link]:
    """Links by falling strength: people's matches first, ties by the ranks of their ends."""
    ends = np.array(links, dtype=np.int64).reshape(-1, 2)
    scores = similarity(ends[:, 0], ends[:, 1])
    ranks = np.sort(rank[ends], axis=1)
    is_match = np.array([link in matches for link in links], dtype=bool)
    order = np.lexsort((ranks[:, 1], ranks[:, 0], -scores, ~is_match))
    return [links[position] for position in order.tolist()]


def _joined(
    members: list[int], ordered: list[Link], apart: dict[int, set[int]]
) -> Iterable[list[int]]:
    """The parts that links make of a component, where no link joins a different pair."""
    part_of = {node: [node] for node in members}
    for a, b in ordered:
        left, right = part_of[a], part_of[b]
        if left is right:
            continue
        small, large = sorted((left, right), key=len)
        enemies = set().union(*(apart.get(node, set()) for node in small))
        if enemies.isdisjoint(large):
            large += small
            part_of.update(dict.fromkeys(small, large))
    return {id(part): part for part in part_of.values()}.values()


def _stars(
    members: list[int], ordered: list[Link], apart: dict[int, set[int]]
) -> Iterable[list[int]]:
    """Greedy stars of a component; of two different neighbors of a center the stronger is in."""
    neighbors: dict[int, list[int]] = {}
    for a, b in ordered:
        neighbors.setdefault(a, []).append(b)
        neighbors.setdefault(b, []).append(a)
    free = set(members)
    for center in members:
        if center not in free:
            continue
        star = [center]
        for node in neighbors.get(center, []):
            if node in free and apart.get(node, set()).isdisjoint(star):
                star.append(node)
        free -= {*star}
        yield star


def _with_links(parts: Iterable[list[int]], links: list[Link], rank: Indices) -> list[Cluster]:
    """The parts of a component as clusters, with the links inside of each."""
    members = [sorted(part, key=lambda node: int(rank[node])) for part in parts]
    label = {node: number for number, part in enumerate(members) for node in part}
    inside: dict[int, list[Link]] = {}
    for a, b in links:
        if label[a] == label[b]:
            inside.setdefault(label[a], []).append((a, b))
    return [Cluster(part, inside.get(number, [])) for number, part in enumerate(members)]


def _neighbors(pairs: Iterable[tuple[int, ...]]) -> dict[int, set[int]]:
    neighbors: dict[int, set[int]] = {}
    for a, b in pairs:
        neighbors.setdefault(a, set()).add(b)
        neighbors.setdefault(b, set()).add(a)
    return neighbors
