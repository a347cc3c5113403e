"""From links between images to the groups they make, and how alike the members are.

What hangs together is a group. Such groups can chain: a resembles b and b resembles c, but a
does not resemble c. So each carries its least and mean similarity over all its pairs, and its
bridges: links without which it would fall apart. With `close_to_representative` groups cannot
chain: every member reaches the threshold with the representative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from imgsim_assets.similarity.cosine import Doubles, Indices, pair_cosines
from imgsim_assets.similarity.pairs import Items

SCHEMA = {
    "group_id": pl.String,
    "id": pl.String,
    "sha256": pl.String,
    "is_representative": pl.Boolean,
    "similarity": pl.Float64,
    "size": pl.Int32,
    "min_similarity": pl.Float64,
    "mean_similarity": pl.Float64,
    "bridges": pl.Int32,
}
BRIDGE_SCHEMA = {
    "group_id": pl.String,
    "left_sha256": pl.String,
    "right_sha256": pl.String,
    "similarity": pl.Float64,
}
# Pairs of a group that are scored at once.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Group:
    """Images of a group by number, the representative first, and the links among them."""

    members: list[int]
    links: list[tuple[int, int]]


def grouped(
    ranked: pl.DataFrame,
    images: Items,
    lists: pl.DataFrame,
    *,
    close_to_representative: bool = False,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The groups of at least two items (SCHEMA) and their bridges (BRIDGE_SCHEMA).

    `ranked` are the items (id, sha256), those that represent a group before others first;
    `lists` the links of the images, both ways round. The order of items and links decides
    nothing but that.
    """
    sha256 = images.keys["sha256"]
    best_item = ranked.with_row_index("rank").group_by("sha256").agg(pl.col("rank").min())
    place = sha256.to_frame().join(best_item, on="sha256", how="left", maintain_order="left")
    rank = place["rank"].to_numpy()
    one_way = lists.filter(pl.col("left_id") < pl.col("right_id")).sort("left_id", "right_id")
    links = np.stack(
        [sha256.search_sorted(one_way[side]).to_numpy() for side in ("left_id", "right_id")], axis=1
    ).astype(np.int64)
    divide = _around_representatives if close_to_representative else _hanging_together
    by_image = ranked.group_by("sha256", maintain_order=True).agg("id")
    ids = sha256.to_frame().join(by_image, on="sha256", how="left", maintain_order="left")["id"]
    counts = ids.list.len().cast(pl.Int64).to_numpy()
    groups = [
        group
        for group in divide(len(images), links, rank)
        if len(group.members) > 1 or counts[group.members[0]] > 1
    ]
    return _described(groups, ids, counts, images)


def _described(
    groups: Sequence[Group], ids: pl.Series, counts: Indices, images: Items
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows and bridges of groups.

    `ids` are those of each image's items, `counts` (n,) how many these are.
    """
    sha256 = images.keys["sha256"]
    name = ids.list.first()
    first = np.array([group.members[0] for group in groups], dtype=np.int64)
    members = np.array([image for group in groups for image in group.members], dtype=np.int64)
    group = np.repeat(np.arange(len(groups)), [len(own.members) for own in groups])
    cut = [bridges_of(own.links) for own in groups]
    size = np.bincount(group, counts[members], len(groups))
    least, mean = _within_each(groups, counts, images)
    rows = pl.DataFrame(
        {
            "group_id": name.gather(first[group]),
            "id": ids.gather(members),
            "sha256": sha256.gather(members),
            "similarity": _cosines(images, first[group], members),
            "size": size[group],
            "min_similarity": least[group],
            "mean_similarity": mean[group],
            "bridges": np.array([len(own) for own in cut], dtype=np.int64)[group],
        }
    ).explode("id")
    rows = rows.with_columns((pl.col("id") == pl.col("group_id")).alias("is_representative"))
    ends = np.array([link for own in cut for link in own], dtype=np.int64).reshape(-1, 2)
    bridges = pl.DataFrame(
        {
            "group_id": name.gather(first.repeat([len(own) for own in cut])),
            "left_sha256": sha256.gather(ends[:, 0]),
            "right_sha256": sha256.gather(ends[:, 1]),
            "similarity": _cosines(images, ends[:, 0], ends[:, 1]),
        },
        schema=BRIDGE_SCHEMA,
    )
    return (
        rows.select(pl.col(column).cast(kind) for column, kind in SCHEMA.items()).sort(
            ["group_id", "is_representative", "similarity", "id"],
            descending=[False, True, True, False],
        ),
        bridges.sort("group_id", "left_sha256", "right_sha256"),
    )


def _cosines(images: Items, i: Indices, j: Indices) -> Doubles:
    unit = images.side.unit
    return pair_cosines(unit.rows, unit.rows, i, j, squares=(unit.squares, unit.squares))


def _within_each(
    groups: Sequence[Group], counts: Indices, images: Items
) -> tuple[Doubles, Doubles]:
    """The least and the mean similarity over all pairs of each group's items.

    Groups of as many images are scored together.
    """
    least, mean = np.empty(len(groups)), np.empty(len(groups))
    sizes = np.array([len(group.members) for group in groups], dtype=np.int64)
    for size in np.unique(sizes):
        numbers = np.flatnonzero(sizes == size)
        step = max(1, _PIECE // int(size) ** 2)
        for start in range(0, len(numbers), step):
            own = numbers[start : start + step]
            members = np.sort([groups[number].members for number in own], axis=1)
            least[own], mean[own] = _within(images, members, counts[members])
    return least, mean


def _within(images: Items, members: Indices, counts: Indices) -> tuple[Doubles, Doubles]:
    """The least and the mean similarity (g,) of groups with these images (g, m).

    `counts` (g, m) says how many items each image has; two items of one image have similarity 1.
    """
    least = np.ones(len(members))
    pairs = (counts * (counts - 1) // 2).sum(axis=1).astype(np.float64)
    total = pairs.copy()
    for i, j in _pairs_of(members.shape[1]):
        ends = (members.take(side, axis=1) for side in (i, j))
        scores = _cosines(images, *(side.ravel() for side in ends)).reshape(len(members), -1)
        weights = counts.take(i, axis=1) * counts.take(j, axis=1)
        least = np.minimum(least, scores.min(axis=1))
        total += (scores * weights).sum(axis=1)
        pairs += weights.sum(axis=1)
    return least, total / pairs


def _pairs_of(count: int) -> Iterator[tuple[Indices, Indices]]:
    """All pairs of numbers below `count`, the lower first, in pieces."""
    step = max(1, _PIECE // max(1, count))
    for start in range(0, count, step):
        i, j = np.indices((min(step, count - start), count)).reshape(2, -1)
        i = i + start
        if len(i[i < j]):
            yield i[i < j], j[i < j]


def _hanging_together(
    count: int, links: NDArray[np.int64], rank: NDArray[np.uint32]
) -> list[Group]:
    """The connected components, each with its first image by rank in front."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(links), dtype=np.int8)
    graph = csr_array((ones, (links[:, 0], links[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    members: dict[int, list[int]] = {}
    for image in np.argsort(rank, kind="stable").tolist():
        members.setdefault(int(label[image]), []).append(image)
    of_label: dict[int, list[tuple[int, int]]] = {}
    for a, b in links.tolist():
        of_label.setdefault(int(label[a]), []).append((a, b))
    return [Group(own, of_label.get(name, [])) for name, own in members.items()]


def _around_representatives(
    count: int, links: NDArray[np.int64], rank: NDArray[np.uint32]
) -> list[Group]:
    """The first image by rank with all that are linked to it; then the first of the rest."""
    neighbors: dict[int, list[int]] = {}
    for a, b in links.tolist():
        neighbors.setdefault(a, []).append(b)
        neighbors.setdefault(b, []).append(a)
    free = np.ones(count, dtype=bool)
    groups = []
    for image in np.argsort(rank, kind="stable").tolist():
        if not free[image]:
            continue
        own = [image, *(other for other in neighbors.get(image, []) if free[other])]
        free[own] = False
        inside = set(own)
        ends = ((a, b) for a in own for b in neighbors.get(a, []) if a < b and b in inside)
        groups.append(Group([image, *sorted(own[1:])], sorted(ends)))
    return groups


def bridges_of(links: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The links of a graph whose removal leaves more parts, sorted.

    By depth-first search: a link to a node is a bridge if nothing beyond reaches further back
    (Tarjan, "A note on finding the bridges of a graph", 1974). Without recursion, for long
    chains.
    """
    neighbors: dict[int, list[tuple[int, int]]] = {}
    for number, (a, b) in enumerate(links):
        neighbors.setdefault(a, []).append((b, number))
        neighbors.setdefault(b, []).append((a, number))
    entered: dict[int, int] = {}
    reach: dict[int, int] = {}
    found = []
    for root in neighbors:
        if root in entered:
            continue
        entered[root] = reach[root] = len(entered)
        path = [(root, -1, iter(neighbors[root]))]
        while path:
            node, by, rest = path[-1]
            step = next(rest, None)
            if step is None:
                path.pop()
                if path:
                    before = path[-1][0]
                    reach[before] = min(reach[before], reach[node])
                    if reach[node] > entered[before]:
                        found.append(links[by])
            elif step[1] != by:
                other, number = step
                if other in entered:
                    reach[node] = min(reach[node], entered[other])
                else:
                    entered[other] = reach[other] = len(entered)
                    path.append((other, number, iter(neighbors[other])))
    return sorted(found)
