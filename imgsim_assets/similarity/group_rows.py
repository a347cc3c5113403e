"""Groups of linked items, described by rows: members, similarities and bridges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from imgsim_assets.similarity.canonical import PROTECTED
from imgsim_assets.similarity.clustering import (
    Cluster,
    connected_components,
    find_bridges,
    similarity_within,
    star_clusters,
)
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.image_sets import ImageSets
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
}
BRIDGE_SCHEMA = {
    "group_id": pl.String,
    "left_id": pl.String,
    "right_id": pl.String,
    "left_sha256": pl.String,
    "right_sha256": pl.String,
    "similarity": pl.Float64,
    "smaller_part": pl.Int32,
}


def group_items(
    items: pl.DataFrame, sets: ImageSets, links: pl.DataFrame, linkage: Linkage, threshold: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Groups of at least two items, and their bridges.

    Args:
        items: id and protected, those that are canonical before others first. The order decides
            which item is canonical and, with linkage star, the groups.
        sets: the images of the items.
        links: pairs of images (left_id, right_id: their keys), in both directions.
        linkage: connected or star.
        threshold: minimum cosine of a link.

    Returns:
        The rows of the groups (SCHEMA) and their bridges (BRIDGE_SCHEMA). `image` and `sha256`
        are of the member's image that is nearest to the canonical item. Items that have the same
        set of images count as one end of a bridge, which is named by the first of them.
    """
    keys = sets.images.keys["id"]
    one_way = links.filter(pl.col("left_id") < pl.col("right_id")).sort("left_id", "right_id")
    ends = [keys.search_sorted(one_way[side]).to_numpy() for side in ("left_id", "right_id")]
    node_links = sets.links(np.stack(ends, axis=1).astype(np.int64), threshold)
    nodes = sets.rows.select("id", "node")
    nodes = nodes.unique("id") if sets.has_several else nodes
    ranked = items.with_row_index("rank").join(nodes, on="id")
    by_node = ranked.sort("rank").group_by("node").agg("id", pl.col("rank").min()).sort("node")
    counts = by_node["id"].list.len().cast(pl.Int64).to_numpy()
    cluster = star_clusters if linkage == "star" else connected_components
    groups = [
        group
        for group in cluster(node_links, by_node["rank"].to_numpy())
        if len(group.members) > 1 or counts[group.members[0]] > 1
    ]
    rows, bridges = _describe(groups, by_node["id"], counts, sets)
    protected = items.filter(PROTECTED)["id"]
    rows = rows.with_columns(
        keep=pl.col("is_canonical") | pl.col("id").is_in(protected.implode())
    ).sort(["group_id", "is_canonical", "similarity", "id"], descending=[False, True, True, False])
    return rows.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items()), bridges


def _describe(
    groups: Sequence[Cluster], ids: pl.Series, counts: Indices, sets: ImageSets
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows and bridges of groups of nodes, which have `ids` (n,) lists of `counts` (n,) items."""
    name = ids.list.first()
    canonical = np.array([group.members[0] for group in groups], dtype=np.int64)
    members = np.array([node for group in groups for node in group.members], dtype=np.int64)
    group = np.repeat(np.arange(len(groups)), [len(group.members) for group in groups])
    bridges = [find_bridges(group.links, counts) for group in groups]
    bridge_counts = np.array([len(links) for links in bridges], dtype=np.int64)
    minimum, mean = similarity_within(groups, counts, sets.similarity)
    nodes = pl.DataFrame(
        {
            "node": members,
            "group_id": name.gather(canonical[group]),
            "id": ids.gather(members),
            "similarity": sets.similarity(canonical[group], members),
            "size": np.bincount(group, counts[members], len(groups))[group],
            "min_similarity": minimum[group],
            "mean_similarity": mean[group],
            "bridges": bridge_counts[group],
        }
    )
    rows = nodes.explode("id").with_columns(is_canonical=pl.col("id") == pl.col("group_id"))
    nearest = _nearest_images(sets, members, canonical[group])
    rows = rows.join(nearest, on="id", how="left", maintain_order="left")
    ends = np.array([link for links in bridges for link in links], dtype=np.int64).reshape(-1, 3)
    sha256 = sets.images.keys["sha256"]
    left, right = sets.best_images(ends[:, 0], ends[:, 1])
    bridge_rows = pl.DataFrame(
        {
            "group_id": name.gather(canonical.repeat(bridge_counts)),
            "left_id": name.gather(ends[:, 0]),
            "right_id": name.gather(ends[:, 1]),
            "left_sha256": sha256.gather(left),
            "right_sha256": sha256.gather(right),
            "similarity": sets.similarity(ends[:, 0], ends[:, 1]),
            "smaller_part": ends[:, 2],
        },
        schema=BRIDGE_SCHEMA,
    )
    return rows, bridge_rows.sort("group_id", "left_sha256", "right_sha256", "left_id", "right_id")


def _nearest_images(sets: ImageSets, members: Indices, canonical: Indices) -> pl.DataFrame:
    """Of the items of each node (p,) the image nearest to a canonical node: id, image, sha256."""
    if not sets.has_several:
        return sets.rows.select("id", "image", "sha256")
    near = sets.nearest_images(members, canonical)
    rows = sets.rows.join(near, on=["node", "position"], how="inner")
    best_first = rows.sort(["id", "cosine", "image"], descending=[False, True, False])
    return best_first.unique("id", keep="first").select("id", "image", "sha256")
