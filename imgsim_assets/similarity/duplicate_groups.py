"""The group stage: items of one or several catalogs that show the same image, by group.

Images are linked where their similarity reaches the threshold, whichever catalog they are of;
`clustering.py` divides them into groups. Connected groups can chain: a is similar to b and b to
c, but a is not similar to c. So each group carries the minimum and mean similarity over all its
pairs, and the number of its bridges: links whose removal would split the group.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT, require_same_encoder
from imgsim_assets.encoders.threshold import resolve_threshold
from imgsim_assets.encoders.vectors import REBUILDS
from imgsim_assets.index.stage import rebuild_count
from imgsim_assets.similarity import items
from imgsim_assets.similarity.canonical import PROTECTED, canonical_order, item_ranks
from imgsim_assets.similarity.clustering import (
    Cluster,
    connected_components,
    cosines_within,
    find_bridges,
    similarity_within,
    star_clusters,
)
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.items import Items
from imgsim_assets.similarity.materialized import NEIGHBOR_LISTS, MaterializedResult
from imgsim_assets.similarity.neighbor_lists import (
    MIN_COSINE,
    CachedNeighborLists,
    JoinSpec,
    neighbor_lists,
)
from imgsim_assets.similarity.settings import (
    CROSS_CATALOG_GROUPS,
    CrossCatalogGroupSettings,
    GroupSettings,
    Linkage,
)
from imgsim_assets.storage.commit import DataFile
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

SCHEMA = {
    "group_id": pl.String,
    "id": pl.String,
    "sha256": pl.String,
    "is_canonical": pl.Boolean,
    "keep": pl.Boolean,
    "similarity": pl.Float64,
    "size": pl.Int32,
    "min_similarity": pl.Float64,
    "mean_similarity": pl.Float64,
    "bridges": pl.Int32,
}
# Rows of groups across catalogs; there a group_id is catalog/id of its canonical item.
CROSS_CATALOG_SCHEMA = {"group_id": pl.String, "catalog": pl.String, **SCHEMA}
BRIDGES = "bridges"
BRIDGE_SCHEMA = {
    "group_id": pl.String,
    "left_sha256": pl.String,
    "right_sha256": pl.String,
    "similarity": pl.Float64,
    "smaller_part": pl.Int32,
}
# The columns that say which items are in which group.
_IDENTITY = ("group_id", "catalog", "id", "sha256")
# The part of the recipe that links depend on; the rest only divides them into groups.
_LINK_KEYS = ("threshold", FINGERPRINT, REBUILDS)
# Between the name of a catalog, which cannot contain it, and an id.
SEPARATOR = "/"


@dataclass(frozen=True)
class GroupReport:
    """The outcome of a run. `grouped`: items in a group; `incremental`: links were updated."""

    version: int
    groups: int
    grouped: int
    items: int
    threshold: float
    incremental: bool
    seconds: float
    changed: bool
    data_version: str
    fingerprint: str


def groups_table(store: Store, name: str, variant: str | None = None) -> Table:
    """`<name>/duplicate_groups`; see SCHEMA, and BRIDGE_SCHEMA for the files of role BRIDGES.

    A `variant` has a table of its own beside the one that the catalog declares.
    """
    return store.table(f"{name}/duplicate_groups" + (f".{variant}" if variant else ""))


def cross_catalog_groups_table(store: Store, name: str) -> Table:
    """`duplicate_groups/<name>`; see CROSS_CATALOG_SCHEMA, and BRIDGE_SCHEMA for role BRIDGES."""
    return store.table(f"{CROSS_CATALOG_GROUPS}/{name}")


class GroupStage:
    """Updates the duplicate groups of one catalog, or across several, to match their indexes."""

    def __init__(
        self,
        store: Store,
        name: str,
        settings: GroupSettings | CrossCatalogGroupSettings,
        *,
        catalogs: Sequence[str] | None = None,
        variant: str | None = None,
    ) -> None:
        """Prepare the stage.

        Args:
            store: the store of the catalogs.
            name: the catalog; with `catalogs`, the table of groups across them.
            settings: threshold, linkage and rule of the canonical item.
            catalogs: the catalogs in order of priority, for groups across them.
            variant: writes the groups of one catalog to a table of its own.
        """
        self._cross_catalog = catalogs is not None
        self._catalogs = [name] if catalogs is None else list(catalogs)
        self._store, self._settings = store, settings
        self.table = (
            groups_table(store, name, variant)
            if catalogs is None
            else cross_catalog_groups_table(store, name)
        )

    def run(self) -> GroupReport:
        """Update the links incrementally, and commit the groups to `self.table`.

        Nothing is committed when the groups are current.

        Raises:
            StoreError: when an index is missing, when the indexes are of different encoders, or
                when the threshold is auto and no encoder evaluation recommends one.
        """
        started = time.monotonic()
        latest = self.table.latest()
        indexed = {name: items.from_index(self._store, name) for name in self._catalogs}
        indexes = {name: index for name, (index, _) in indexed.items()}
        commits = list(indexes.items())
        require_same_encoder(commits)
        ranks = item_ranks(
            self._store,
            {name: of_catalog.keys for name, (_, of_catalog) in indexed.items()},
            self._settings.keep,
            separator=SEPARATOR if self._cross_catalog else None,
        )
        ranked = canonical_order(ranks, self._settings.canonical)
        images = _distinct_images([of_catalog for _, of_catalog in indexed.values()])
        threshold = resolve_threshold(self._store, self._settings.threshold, commits)
        threshold = MIN_COSINE if threshold is None else threshold
        fingerprint = indexes[self._catalogs[0]].properties[FINGERPRINT]
        recipe = {
            "catalogs": self._catalogs,
            "canonical": list(self._settings.canonical),
            "keep": list(self._settings.keep),
            "threshold": threshold,
            "linkage": self._settings.linkage,
            FINGERPRINT: fingerprint,
            **items.vector_rebuilds(*map(rebuild_count, indexes.values())),
        }
        result = MaterializedResult.for_recipe(self.table, latest, recipe, _LINK_KEYS)
        # In order of rank, which decides the groups as much as the items; only keys are kept.
        in_order = Items(ranked, np.empty((0, 0), dtype=np.float32))
        inputs = {f"{name}/index": index.version for name, index in commits}
        update = result.update(
            in_order, images, inputs, lambda: self._compute(result, ranked, images, threshold)
        )
        if update is None:
            return self.run()
        rows = update.rows
        identity = [name for name in _IDENTITY if name in rows.columns]
        return GroupReport(
            version=update.commit.version,
            groups=rows["group_id"].n_unique(),
            grouped=rows.height,
            items=ranked.height,
            threshold=threshold,
            incremental=update.incremental,
            seconds=time.monotonic() - started,
            changed=update.commit != latest,
            data_version=rows_digest(rows.select(identity), str(recipe)),
            fingerprint=fingerprint,
        )

    def _compute(
        self, result: MaterializedResult, ranked: pl.DataFrame, images: Items, threshold: float
    ) -> tuple[pl.DataFrame, list[DataFile], bool]:
        """The rows of the groups, the files beside them, and whether cached links were used."""
        cached = _cached_links(result)
        links = neighbor_lists(images, images, JoinSpec(threshold, exclude_self=True), cached)
        rows, bridges = group_items(ranked, images, links, self._settings.linkage)
        files = [
            self.table.write_rows(bridges, role=BRIDGES),
            self.table.write_rows(links, role=NEIGHBOR_LISTS),
        ]
        return _with_catalog(rows) if self._cross_catalog else rows, files, cached is not None


def _distinct_images(catalogs: Sequence[Items]) -> Items:
    """One item for each distinct image of all catalogs, with its sha256 as id."""
    keys = [catalog.keys.select("sha256").with_row_index("row") for catalog in catalogs]
    distinct = (
        pl.concat(frame.with_columns(pl.lit(n).alias("catalog")) for n, frame in enumerate(keys))
        .unique("sha256", keep="first", maintain_order=True)
        .with_row_index("position")
    )
    vectors = np.concatenate(
        [
            catalog.vectors[distinct.filter(pl.col("catalog") == number)["row"].to_numpy()]
            for number, catalog in enumerate(catalogs)
            if len(catalog)
        ]
        or [catalogs[0].vectors]
    )
    in_order = distinct.sort("sha256")
    sha256 = in_order.select(pl.col("sha256").alias("id"), "sha256")
    return Items(sha256, vectors[in_order["position"].to_numpy()])


def _cached_links(result: MaterializedResult) -> CachedNeighborLists | None:
    """The links of an earlier run; of its items only the images, which lie on the right."""
    cached = result.cached_lists()
    return None if cached is None else CachedNeighborLists(cached.lists, cached.right, cached.right)


def _with_catalog(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose ids are catalog/id, with catalog and id in columns of their own."""
    parts = pl.col("id").str.splitn(SEPARATOR, 2).struct
    split = rows.with_columns(
        parts.field("field_0").alias("catalog"), parts.field("field_1").alias("id")
    )
    return split.select(list(CROSS_CATALOG_SCHEMA))


# ---- groups of items --------------------------------------------------------------------


def group_items(
    ranked: pl.DataFrame, images: Items, links: pl.DataFrame, linkage: Linkage
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Groups of at least two items, and their bridges.

    Args:
        ranked: items (id, sha256, protected), those that are canonical before others first. The
            order decides which item is canonical and, with linkage star, the groups.
        images: the distinct images of the items.
        links: neighbor lists (left_id, right_id) of the images, in both directions.
        linkage: connected or star.

    Returns:
        The rows of the groups (SCHEMA) and their bridges (BRIDGE_SCHEMA).
    """
    sha256 = images.keys["sha256"]
    by_image = (
        ranked.with_row_index("rank")
        .group_by("sha256", maintain_order=True)
        .agg("id", pl.col("rank").min())
    )
    of_image = sha256.to_frame().join(by_image, on="sha256", how="left", maintain_order="left")
    ids, rank = of_image["id"], of_image["rank"].to_numpy()
    counts = ids.list.len().cast(pl.Int64).to_numpy()
    one_way = links.filter(pl.col("left_id") < pl.col("right_id")).sort("left_id", "right_id")
    ends = [sha256.search_sorted(one_way[side]).to_numpy() for side in ("left_id", "right_id")]
    cluster = star_clusters if linkage == "star" else connected_components
    groups = [
        group
        for group in cluster(np.stack(ends, axis=1).astype(np.int64), rank)
        if len(group.members) > 1 or counts[group.members[0]] > 1
    ]
    rows, bridges = _describe(groups, ids, counts, images)
    protected = ranked.filter(PROTECTED)["id"]
    keep = pl.col("is_canonical") | pl.col("id").is_in(protected.implode())
    return rows.with_columns(keep.alias("keep")).select(list(SCHEMA)), bridges


def _describe(
    groups: Sequence[Cluster], ids: pl.Series, counts: Indices, images: Items
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows and bridges of groups of images, which have `ids` (n,) lists of `counts` (n,) items."""
    sha256 = images.keys["sha256"]
    name = ids.list.first()
    canonical = np.array([group.members[0] for group in groups], dtype=np.int64)
    members = np.array([image for group in groups for image in group.members], dtype=np.int64)
    group = np.repeat(np.arange(len(groups)), [len(group.members) for group in groups])
    bridges = [find_bridges(group.links, counts) for group in groups]
    bridge_counts = np.array([len(links) for links in bridges], dtype=np.int64)
    unit = images.join_input.unit
    minimum, mean = similarity_within(groups, counts, unit)
    rows = pl.DataFrame(
        {
            "group_id": name.gather(canonical[group]),
            "id": ids.gather(members),
            "sha256": sha256.gather(members),
            "similarity": cosines_within(unit, canonical[group], members),
            "size": np.bincount(group, counts[members], len(groups))[group],
            "min_similarity": minimum[group],
            "mean_similarity": mean[group],
            "bridges": bridge_counts[group],
        }
    ).explode("id")
    rows = rows.with_columns((pl.col("id") == pl.col("group_id")).alias("is_canonical"))
    ends = np.array([link for links in bridges for link in links], dtype=np.int64).reshape(-1, 3)
    bridge_rows = pl.DataFrame(
        {
            "group_id": name.gather(canonical.repeat(bridge_counts)),
            "left_sha256": sha256.gather(ends[:, 0]),
            "right_sha256": sha256.gather(ends[:, 1]),
            "similarity": cosines_within(unit, ends[:, 0], ends[:, 1]),
            "smaller_part": ends[:, 2],
        },
        schema=BRIDGE_SCHEMA,
    )
    described = {name: kind for name, kind in SCHEMA.items() if name != "keep"}
    return (
        rows.select(pl.col(column).cast(kind) for column, kind in described.items()).sort(
            ["group_id", "is_canonical", "similarity", "id"],
            descending=[False, True, True, False],
        ),
        bridge_rows.sort("group_id", "left_sha256", "right_sha256"),
    )
