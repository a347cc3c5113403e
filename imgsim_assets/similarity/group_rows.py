"""Groups of linked items, described by rows: members, similarities and bridges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.reviews.table import DIFFERENT, MATCH
from imgsim_assets.similarity.canonical import PROTECTED
from imgsim_assets.similarity.clustering import find_bridges, similarity_within
from imgsim_assets.similarity.cosine import Doubles, Indices
from imgsim_assets.similarity.decided_groups import DecidedNodes, decided_clusters
from imgsim_assets.similarity.image_sets import ImageSets
from imgsim_assets.similarity.items import ORIENTATION
from imgsim_assets.similarity.orientations import with_names
from imgsim_assets.similarity.settings import Linkage

SCHEMA = {
    "group_id": pl.String,
    "id": pl.String,
    "image": pl.Int32,
    "sha256": pl.String,
    "is_canonical": pl.Boolean,
    "keep": pl.Boolean,
    "similarity": pl.Float64,
    "size": pl.Int32,
    "min_similarity": pl.Float64,
    "mean_similarity": pl.Float64,
    "bridges": pl.Int32,
    "verdict": pl.String,
    "judged": pl.Int32,
}
BRIDGE_SCHEMA = {
    "group_id": pl.String,
    "left_id": pl.String,
    "right_id": pl.String,
    "left_sha256": pl.String,
    "right_sha256": pl.String,
    "similarity": pl.Float64,
    "smaller_part": pl.Int32,
    "verdict": pl.String,
}
_PAIR = ("left_id", "right_id")


def group_items(
    items: pl.DataFrame,
    sets: ImageSets,
    links: Indices,
    linkage: Linkage,
    threshold: float,
    verdicts: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Groups of at least two items, and their bridges.

    Args:
        items: id and protected, those that are canonical before others first. The order decides
            which item is canonical and, with linkage star, the groups.
        sets: the images of the items.
        links: (p, 2) positions of images whose similarity reaches the threshold, a < b, sorted.
        linkage: connected or star.
        threshold: minimum cosine of a link.
        verdicts: people's decisions about pairs of items (left_id, right_id, verdict). Items that
            were judged different are each alone in their set.

    Returns:
        The rows of the groups (SCHEMA) and their bridges (BRIDGE_SCHEMA). `image` and `sha256`
        are of the member's image that is nearest to the canonical item, and of the canonical
        item's image that is nearest to a member with other images; `verdict` is about the
        member and the canonical item, and `judged` counts the pairs of the group that people
        judged a match. With turned images there is the column `orientation`, in which that image
        looks like the canonical item's. Items that have the same set of images count as one end
        of a bridge, which is named by the first of them.
    """
    node_links = sets.links(links, threshold)
    nodes = sets.rows.select("id", "node")
    nodes = nodes.unique("id") if sets.has_several else nodes
    graph = _Graph.of(items, nodes, node_links, _decided_nodes(verdicts, nodes))
    rows, bridges = _describe(graph, sets, linkage)
    rows = _with_verdicts(rows, verdicts)
    bridges = _with_decided_bridges(bridges, nodes, graph.decided)
    protected = items.filter(PROTECTED)["id"]
    rows = rows.with_columns(
        keep=pl.col("is_canonical") | pl.col("id").is_in(protected.implode())
    ).sort(["group_id", "is_canonical", "similarity", "id"], descending=[False, True, True, False])
    described = rows.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())
    if sets.turned is not None:
        described = with_names(described.with_columns(rows[ORIENTATION]))
    return described, bridges


@dataclass(frozen=True)
class _Graph:
    """The nodes that may be in a group, numbered from 0, and the links between them.

    Nodes of one item without a link are left out: of most catalogs, that is nearly all.

    Attributes:
        nodes: (n,) their numbers among all nodes, ascending.
        ids: the items of each, those of lower rank first.
        counts: (n,) how many these are.
        ranks: (n,) the rank of the first of them.
        links: (m, 2) pairs of nodes as they are numbered here, a < b, sorted.
        decided: people's decisions, by the numbers among all nodes.
    """

    nodes: Indices
    ids: pl.Series
    counts: Indices
    ranks: Indices
    links: Indices
    decided: DecidedNodes

    @classmethod
    def of(
        cls, items: pl.DataFrame, nodes: pl.DataFrame, links: Indices, decided: DecidedNodes
    ) -> _Graph:
        """The graph of items (id, in order of rank) by their nodes (id, node)."""
        of_item = nodes["node"].to_numpy()
        count = np.bincount(of_item)
        is_grouped = count > 1
        for pairs in (links, decided.matches, decided.different):
            is_grouped[pairs.ravel()] = True
        chosen = nodes.filter(pl.Series(is_grouped[of_item]))
        by_node = (
            items.select("id")
            .with_row_index("rank")
            .join(chosen, on="id", maintain_order="left")
            .group_by("node")
            .agg("id", pl.col("rank").min())
            .sort("node")
        )
        numbers = by_node["node"].to_numpy()
        return cls(
            numbers,
            by_node["id"],
            count[numbers],
            by_node["rank"].cast(pl.Int64).to_numpy(),
            np.searchsorted(numbers, links),
            decided,
        )

    @property
    def numbered(self) -> DecidedNodes:
        """The decisions by the nodes as they are numbered here."""
        pairs = (self.decided.matches, self.decided.different)
        return DecidedNodes(*(np.searchsorted(self.nodes, each) for each in pairs))


def _decided_nodes(verdicts: pl.DataFrame, nodes: pl.DataFrame) -> DecidedNodes:
    """The decisions about two different nodes (id, node), by the nodes."""
    ends = verdicts.join(nodes.rename({"id": "left_id", "node": "left"}), on="left_id").join(
        nodes.rename({"id": "right_id", "node": "right"}), on="right_id"
    )
    pairs = ends.select(
        "verdict", a=pl.min_horizontal("left", "right"), b=pl.max_horizontal("left", "right")
    ).filter(pl.col("a") < pl.col("b"))
    matches, different = (
        pairs.filter(pl.col("verdict") == verdict).select("a", "b").unique().sort("a", "b")
        for verdict in (MATCH, DIFFERENT)
    )
    return DecidedNodes(matches.to_numpy(), different.to_numpy())


def _with_verdicts(rows: pl.DataFrame, verdicts: pl.DataFrame) -> pl.DataFrame:
    """The rows with the verdict about each member, and the number of matches of the group."""
    both = pl.concat(
        [verdicts, verdicts.select(left_id="right_id", right_id="left_id", verdict="verdict")]
    )
    of_canonical = both.rename({"left_id": "group_id", "right_id": "id"})
    group = rows.select("id", "group_id")
    judged = (
        verdicts.filter(pl.col("verdict") == MATCH)
        .join(group, left_on="left_id", right_on="id")
        .join(group, left_on=["right_id", "group_id"], right_on=["id", "group_id"], how="semi")
        .group_by("group_id")
        .agg(pl.len().alias("judged"))
    )
    described = rows.join(of_canonical, on=["group_id", "id"], how="left", maintain_order="left")
    counted = described.join(judged, on="group_id", how="left", maintain_order="left")
    return counted.with_columns(pl.col("judged").fill_null(0))


def _with_decided_bridges(
    bridges: pl.DataFrame, nodes: pl.DataFrame, decided: DecidedNodes
) -> pl.DataFrame:
    """Bridges with the verdict `match` where people decided that their ends match."""
    ends = bridges.select(_PAIR)
    for side in _PAIR:
        of_side = nodes.rename({"id": side, "node": f"{side}_node"})
        ends = ends.join(of_side, on=side, how="left", maintain_order="left")
    matches = pl.DataFrame(decided.matches, schema=["a", "b"], orient="row").with_columns(
        pl.lit(MATCH).alias("verdict")
    )
    a, b = (pl.col(f"{side}_node") for side in _PAIR)
    named = ends.select(a=pl.min_horizontal(a, b), b=pl.max_horizontal(a, b)).join(
        matches, on=["a", "b"], how="left", maintain_order="left"
    )
    return bridges.with_columns(named["verdict"])


def _describe(
    graph: _Graph, sets: ImageSets, linkage: Linkage
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows and bridges of the groups of a graph."""
    nodes, counts, ids = graph.nodes, graph.counts, graph.ids

    def similarity(a: Indices, b: Indices) -> Doubles:
        return sets.similarity(nodes[a], nodes[b])

    clusters = decided_clusters(graph.links, graph.ranks, linkage, graph.numbered, similarity)
    groups = [group for group in clusters if len(group.members) > 1 or counts[group.members[0]] > 1]
    name = ids.list.first()
    canonical = np.array([group.members[0] for group in groups], dtype=np.int64)
    members = np.array([node for group in groups for node in group.members], dtype=np.int64)
    group = np.repeat(np.arange(len(groups)), [len(group.members) for group in groups])
    bridges = [find_bridges(group.links, counts) for group in groups]
    bridge_counts = np.array([len(links) for links in bridges], dtype=np.int64)
    minimum, mean = similarity_within(groups, counts, similarity)
    of_members = pl.DataFrame(
        {
            "group_id": name.gather(canonical[group]),
            "id": ids.gather(members),
            "similarity": similarity(canonical[group], members),
            "size": np.bincount(group, counts[members], len(groups))[group],
            "min_similarity": minimum[group],
            "mean_similarity": mean[group],
            "bridges": bridge_counts[group],
        }
    )
    rows = of_members.explode("id").with_columns(is_canonical=pl.col("id") == pl.col("group_id"))
    nearest = _nearest_images(sets, nodes[members], nodes[canonical[group]])
    rows = rows.join(nearest, on="id", how="left", maintain_order="left")
    ends = np.array([link for links in bridges for link in links], dtype=np.int64).reshape(-1, 3)
    sha256 = sets.images.keys["sha256"]
    left, right = sets.best_images(nodes[ends[:, 0]], nodes[ends[:, 1]])
    bridge_rows = pl.DataFrame(
        {
            "group_id": name.gather(canonical.repeat(bridge_counts)),
            "left_id": name.gather(ends[:, 0]),
            "right_id": name.gather(ends[:, 1]),
            "left_sha256": sha256.gather(left),
            "right_sha256": sha256.gather(right),
            "similarity": similarity(ends[:, 0], ends[:, 1]),
            "smaller_part": ends[:, 2],
        },
        schema={name: kind for name, kind in BRIDGE_SCHEMA.items() if name != "verdict"},
    )
    return rows, bridge_rows.sort("group_id", "left_sha256", "right_sha256", "left_id", "right_id")


def _nearest_images(sets: ImageSets, members: Indices, canonical: Indices) -> pl.DataFrame:
    """Of the items of each node (p,) the image nearest to the canonical node of its group (p,).

    Of a canonical node it is the image nearest to another node of the group.

    Returns:
        id, image and sha256, and with turned images their orientation.
    """
    columns = ["id", "image", "sha256", *([ORIENTATION] if sets.turned is not None else [])]
    is_member = np.zeros(len(sets), dtype=bool)
    is_member[members] = True
    rows = sets.rows.filter(pl.Series(is_member[sets.rows["node"].to_numpy()]))
    if not sets.has_several and sets.turned is None:
        return rows.select(columns)
    others = members != canonical
    alone = ~np.isin(canonical, canonical[others])
    near = sets.nearest_images(
        np.concatenate([members[others], canonical[others], members[alone]]),
        np.concatenate([canonical[others], members[others], canonical[alone]]),
    )
    # The canonical item is upright, however the others are turned.
    is_turned = np.zeros(len(sets), dtype=bool)
    is_turned[members[others]] = True
    near = near.with_columns(pl.col(ORIENTATION) * pl.Series(is_turned[near["node"].to_numpy()]))
    rows = rows.join(near, on=["node", "position"], how="inner")
    order = ["id", "cosine", ORIENTATION, "image"]
    best_first = rows.sort(order, descending=[False, True, False, False])
    return best_first.unique("id", keep="first").select(columns)
