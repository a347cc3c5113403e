"""The group stage: items of one or several catalogs that show the same image, by group.

Items are linked where the similarity of two of their images reaches the threshold, whichever
catalog they are of; `image_sets.py` has the items by their images, and `clustering.py` divides them
into groups. Connected groups can chain: a is similar to b and b to c, but a is not similar to c. So
each group carries the minimum and mean similarity over all its pairs, and the number of its
bridges: links whose removal would split the group.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT, require_same_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.vectors import REBUILDS
from imgsim_assets.index.stage import rebuild_count
from imgsim_assets.progress import Log, silent
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.table import GROUPS, REVIEWS, read_reviews, unordered
from imgsim_assets.similarity import items
from imgsim_assets.similarity.approximate.estimate import warn_of_exact_search
from imgsim_assets.similarity.approximate.recall import Recall
from imgsim_assets.similarity.approximate.search import recall_of, reused_if_found
from imgsim_assets.similarity.calibration import CatalogItems
from imgsim_assets.similarity.canonical import PROTECTED, canonical_order, item_ranks
from imgsim_assets.similarity.distinct_images import distinct_images
from imgsim_assets.similarity.evidence.accepted_pairs import (
    BY_EVIDENCE,
    CANDIDATES,
    EvidenceCounts,
    EvidenceRule,
    evident_pairs,
    needs_threshold,
)
from imgsim_assets.similarity.evidence.compare_pairs import PairEvidence
from imgsim_assets.similarity.evidence.known_pairs import EVIDENCE, EVIDENCE_RULE
from imgsim_assets.similarity.group_rows import SCHEMA, group_items
from imgsim_assets.similarity.image_sets import ImageSets, link_positions
from imgsim_assets.similarity.item_pairs import item_pairs
from imgsim_assets.similarity.items import (
    LEFT_OUT,
    ORIENTATION,
    Items,
    row_keys,
    turned_keys,
)
from imgsim_assets.similarity.join_spec import JoinSpec
from imgsim_assets.similarity.materialized import (
    NEIGHBOR_LISTS,
    ORIENTATIONS_PROPERTY,
    Computed,
    MaterializedResult,
)
from imgsim_assets.similarity.neighbor_lists import CachedNeighborLists
from imgsim_assets.similarity.orientations import TURNED_REBUILDS, TurnedCatalogs
from imgsim_assets.similarity.selection import (
    common_images,
    left_out_counts,
    select_images,
    shared_images,
)
from imgsim_assets.similarity.settings import (
    APPROXIMATE,
    CROSS_CATALOG_GROUPS,
    METHOD,
    MIN_RECALL,
    CrossCatalogGroupSettings,
    GroupSettings,
    PairSettings,
)
from imgsim_assets.similarity.threshold import resolve_threshold
from imgsim_assets.similarity.updated_lists import updated_lists
from imgsim_assets.similarity.values import WITHIN, items_versions
from imgsim_assets.storage.commit import Commit, DataFile
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table

# Rows of groups across catalogs; there a group_id is catalog/id of its canonical item.
CROSS_CATALOG_SCHEMA = {"group_id": pl.String, "catalog": pl.String, **SCHEMA}
BRIDGES = "bridges"
# The file of the verdicts, with those that were reopened: left_id, right_id and verdict.
DECISIONS = "decisions"
_OF_CATALOG = "/duplicate_groups"
# The columns that say which items are in which group.
_IDENTITY = ("group_id", "catalog", "id", "image", "sha256", ORIENTATION)
# The part of the recipe that links depend on; the rest only divides them into groups.
_LINK_KEYS = (
    "threshold",
    CANDIDATES,
    WITHIN,
    FINGERPRINT,
    REBUILDS,
    ORIENTATIONS_PROPERTY,
    TURNED_REBUILDS,
    METHOD,
    MIN_RECALL,
)
# Between the name of a catalog, which cannot contain it, and an id.
SEPARATOR = "/"


@dataclass(frozen=True)
class GroupReport:
    """The outcome of a run. `grouped`: items in a group; `incremental`: links were updated.

    Items and images are those with a vector; `left_out` are images that are not compared,
    `shared` those of them that too many items of a catalog have, and `common` compared ones that
    most items of a catalog have. `turned` counts the images that were encoded in other
    orientations, None without orientations. `recall` is that of approximate links, and
    `exact_seconds` the estimated time of a large exact computation; both are None otherwise.
    `decisions` counts people's verdicts that stand, and
    `reopened` are those about images that have changed.
    `device` says where joins ran.
    """

    version: int
    groups: int
    grouped: int
    items: int
    images: int
    left_out: Mapping[str, int]
    shared: pl.DataFrame
    common: pl.DataFrame
    decisions: Mapping[str, int]
    reopened: pl.DataFrame
    threshold: float
    threshold_source: str
    threshold_is_measured: bool
    evidence: EvidenceCounts | None
    recall: Recall | None
    exact_seconds: float | None
    turned: int | None
    incremental: bool
    seconds: float
    changed: bool
    data_version: str
    fingerprint: str
    device: str = "not needed"


def groups_table(store: Store, name: str, variant: str | None = None) -> Table:
    """`<name>/duplicate_groups`; see SCHEMA, and BRIDGE_SCHEMA for the files of role BRIDGES.

    With orientations there is the column ORIENTATION.

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
        root: Path = Path(),
        encoders: Mapping[str, EncoderSettings] | None = None,
        log: Log = silent,
    ) -> None:
        """Prepare the stage.

        Args:
            store: the store of the catalogs.
            name: the catalog; with `catalogs`, the table of groups across them.
            settings: threshold, linkage and rule of the canonical item.
            catalogs: the catalogs in order of priority, for groups across them.
            variant: writes the groups of one catalog to a table of its own.
            root: the project's root, from which the paths of an ignore list start.
            encoders: of the catalogs, as declared, for orientations; by default as recorded.
            log: receives progress messages.
        """
        self._turned = TurnedCatalogs(store, encoders, log=log)
        self._cross_catalog = catalogs is not None
        self._catalogs = [name] if catalogs is None else list(catalogs)
        self._store, self._settings, self._root, self._log = store, settings, root, log
        self.table = (
            groups_table(store, name, variant)
            if catalogs is None
            else cross_catalog_groups_table(store, name)
        )

    def run(self) -> GroupReport:
        """Update the links incrementally, and commit the groups to `self.table`.

        Nothing is committed when the groups are current.

        Raises:
            StoreError: when an index is missing, or when the indexes are of different encoders.
            SettingsError: when the ignore list, or a file that it names, cannot be read.
        """
        started = time.monotonic()
        settings = self._settings
        latest = self.table.latest()
        inputs = items_versions(self._store, self._catalogs, settings.within)
        indexed = {name: items.from_index(self._store, name) for name in self._catalogs}
        indexes = {name: index for name, (index, _) in indexed.items()}
        commits = list(indexes.items())
        require_same_encoder(commits)
        catalogs = {name: of_catalog for name, (_, of_catalog) in indexed.items()}
        read = [CatalogItems(name, *indexed[name]) for name in self._catalogs]
        kept = select_images(self._store, settings, self._root, read)
        selected = dict(zip(self._catalogs, kept, strict=True))
        ranked = self._in_order(catalogs, selected)
        images = distinct_images(list(selected.values()))
        resolved = (
            resolve_threshold(
                self._store,
                settings.threshold,
                settings.false_matches,
                read,
                searched=sum(each.count for _, each in indexed.values()),
                strict=True,
                turned=self._turned if settings.orientations else None,
                evidence=settings.evidence.compute,
            )
            if needs_threshold(settings.evidence)
            else BY_EVIDENCE
        )
        rule = EvidenceRule.of(settings.evidence, resolved.value, strict=True)
        threshold = rule.min_similarity if rule is not None else resolved.value
        fingerprint = indexes[self._catalogs[0]].properties[FINGERPRINT]
        names = {*PairSettings.model_fields} - {ORIENTATIONS_PROPERTY}
        recipe = {
            "catalogs": self._catalogs,
            "canonical": list(settings.canonical),
            "keep": list(settings.keep),
            **settings.model_dump(mode="json", include=names),
            "threshold": threshold,
            "linkage": settings.linkage,
            CANDIDATES: rule.candidates_recipe if rule is not None else None,
            EVIDENCE_RULE: rule.recipe if rule is not None else None,
            FINGERPRINT: fingerprint,
            **items.vector_rebuilds(*map(rebuild_count, indexes.values())),
            **self._turned.recipe(indexes if settings.orientations else {}),
        }
        decisions = group_decisions(self._store, self.table.name, ranked)
        recipe[DECISIONS] = decisions.digest
        result = MaterializedResult.for_recipe(self.table, latest, recipe, _LINK_KEYS)
        result = reused_if_found(result)
        # In order of rank, which decides the groups as much as the items; only keys are kept.
        in_order = Items(ranked, np.empty((0, 0), dtype=np.float32))
        inputs |= {f"{name}/index": index.version for name, index in commits}
        computed: list[PairEvidence] = []
        expected: list[float | None] = []

        def compute() -> Computed:
            turned = self._in_all_orientations(indexes, selected)
            from_rows = turned or images
            expected.append(warn_of_exact_search(result, from_rows, images, self._log))
            if rule is None:
                links, files, incremental = _links(result, from_rows, images, threshold)
            else:
                found = evident_pairs(
                    self._store,
                    result,
                    from_rows,
                    images,
                    rule,
                    _cached_links(result),
                    exclude_self=True,
                )
                computed.append(found.evidence)
                links, files, incremental = (
                    _in_both(_of_images(found.rows, from_rows, images)),
                    found.files,
                    found.incremental,
                )
            rows, bridges = self._grouped(ranked, images, turned, links, threshold, decisions)
            files = [
                self.table.write_rows(rows),
                self.table.write_rows(bridges, role=BRIDGES),
                *files,
            ]
            if decisions.verdicts.height:
                files.append(self.table.write_rows(decisions.verdicts, role=DECISIONS))
            return Computed(files, incremental)

        update = result.update(in_order, images, inputs, compute)
        if update is None:
            return self.run()
        rows = update.rows
        identity = [name for name in _IDENTITY if name in rows.columns]
        return GroupReport(
            version=update.commit.version,
            groups=rows["group_id"].n_unique(),
            grouped=rows.height,
            items=sum(images.count for images in catalogs.values()),
            images=ranked.height,
            left_out=left_out_counts(*selected.values()),
            shared=shared_images(selected),
            common=common_images(selected),
            decisions=decisions.counts,
            reopened=decisions.reopened,
            threshold=threshold,
            threshold_source=resolved.source,
            threshold_is_measured=resolved.is_measured,
            evidence=self._evidence(update.commit, computed[0] if computed else None, rule),
            recall=recall_of(update.commit),
            exact_seconds=expected[0] if expected else None,
            turned=self._turned.encoded if settings.orientations else None,
            incremental=update.incremental,
            seconds=time.monotonic() - started,
            changed=update.commit != latest,
            data_version=rows_digest(rows.select(identity).cast(pl.String), str(recipe)),
            fingerprint=fingerprint,
        )

    def _in_order(
        self, catalogs: Mapping[str, Items], selected: Mapping[str, Items]
    ) -> pl.DataFrame:
        """All images with `protected` and, if any is left out, the reason; by rank of the item."""
        separator = SEPARATOR if self._cross_catalog else None
        keys = {name: images.keys for name, images in catalogs.items()}
        ranks = item_ranks(self._store, keys, self._settings.keep, separator=separator)
        ranked = canonical_order(ranks, self._settings.canonical).with_row_index("rank")
        prefix = {name: f"{name}{separator}" if separator else "" for name in catalogs}
        recorded = pl.concat(
            (
                of_catalog.recorded.with_columns((pl.lit(prefix[name]) + pl.col("id")).alias("id"))
                for name, of_catalog in selected.items()
            ),
            how="diagonal",
        )
        return recorded.join(ranked, on="id").sort("rank", "image").drop("rank")

    def _in_all_orientations(
        self, indexes: Mapping[str, Commit], selected: Mapping[str, Items]
    ) -> Items | None:
        """The distinct images in all orientations; None where all are compared upright."""
        if not self._settings.orientations:
            return None
        turned = (
            self._turned.turned(name, indexes[name], of_catalog)
            for name, of_catalog in selected.items()
        )
        return distinct_images(list(turned))

    def _grouped(
        self,
        ranked: pl.DataFrame,
        images: Items,
        turned: Items | None,
        links: pl.DataFrame,
        threshold: float,
        decisions: Decisions,
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows of the groups, and their bridges."""
        items_in_order = ranked.select("id", PROTECTED).unique("id", maintain_order=True)
        different = decisions.different
        alone = pl.concat([different["left_id"], different["right_id"]]).unique()
        sets = ImageSets.of(_compared_rows(ranked), images, self._settings.compare, alone, turned)
        linkage, verdicts = self._settings.linkage, decisions.verdicts
        linked = link_positions(links, images.keys["id"])
        rows, bridges = group_items(items_in_order, sets, linked, linkage, threshold, verdicts)
        return _with_catalog(rows) if self._cross_catalog else rows, bridges

    def _evidence(
        self, commit: Commit, computed: PairEvidence | None, rule: EvidenceRule | None
    ) -> EvidenceCounts | None:
        file = commit.file_with_role(EVIDENCE)
        return EvidenceCounts.of(self.table.read_file(file), computed, rule) if file else None


def group_decisions(store: Store, table: str, images: pl.DataFrame) -> Decisions:
    """People's decisions about the pairs of duplicate groups and the variants of them.

    Args:
        store: the store of the groups.
        table: the table of the groups.
        images: id and sha256 of all images; of groups across catalogs, an id is catalog/id.
    """
    reviews = store.table(f"{REVIEWS}/{reviewed_groups(table)}")
    decided = unordered(read_reviews(reviews, reviews.latest()))
    return Decisions.of(decided, images, images)


def is_groups(table: str) -> bool:
    """Whether a table holds duplicate groups, of one catalog or across several."""
    name = table.partition(".")[0]
    return name.startswith(f"{CROSS_CATALOG_GROUPS}/") or name.endswith(_OF_CATALOG)


def reviewed_groups(table: str) -> str:
    """The name under which groups are reviewed, such as "groups/photos", without a variant."""
    name = table.partition(".")[0].removeprefix(f"{CROSS_CATALOG_GROUPS}/")
    return f"{GROUPS}/{name.removesuffix(_OF_CATALOG)}"


def _links(
    result: MaterializedResult, from_rows: Items, images: Items, threshold: float
) -> tuple[pl.DataFrame, list[DataFile], bool]:
    """All pairs of images at the threshold, their file, and whether cached links were used.

    `from_rows` are the images, in all orientations or as they are.
    """
    spec = JoinSpec(threshold, exclude_self=True)
    lists = updated_lists(
        result,
        from_rows,
        images,
        spec,
        attrgetter("lists"),
        role=NEIGHBOR_LISTS,
        cached=_cached_links(result),
    )
    links = _of_images(pl.concat(lists.results), from_rows, images)
    if result.properties[METHOD] == APPROXIMATE:
        # One of two images can have the other as a candidate, and not the reverse.
        links = _in_both(links)
    return links, lists.files, lists.incremental


def _of_images(pairs: pl.DataFrame, from_rows: Items, images: Items) -> pl.DataFrame:
    """The pairs of images of pairs of rows, of which each orientation of an image is one."""
    return item_pairs(pairs, from_rows, images) if from_rows.is_turned else pairs


def _in_both(links: pl.DataFrame) -> pl.DataFrame:
    """Links in both directions, where one image at least has the other as a candidate."""
    ends = pl.col("left_id"), pl.col("right_id")
    turned = links.with_columns(ends[1].alias("left_id"), ends[0].alias("right_id"))
    return pl.concat([links, turned]).unique(["left_id", "right_id"], keep="first")


def _compared_rows(ranked: pl.DataFrame) -> pl.DataFrame:
    """The images that are not left out."""
    return ranked.filter(pl.col(LEFT_OUT).is_null()) if LEFT_OUT in ranked.columns else ranked


def _cached_links(result: MaterializedResult) -> CachedNeighborLists | None:
    """The links of an earlier run; of its items only the images, which lie on the right."""
    cached = result.cached_lists()
    if cached is None:
        return None
    images = cached.right
    rows = row_keys(turned_keys(images)) if result.properties[ORIENTATIONS_PROPERTY] else images
    return CachedNeighborLists(cached.lists, rows, images)


def _with_catalog(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows whose ids are catalog/id, with catalog and id in columns of their own."""
    parts = pl.col("id").str.splitn(SEPARATOR, 2).struct
    split = rows.with_columns(
        parts.field("field_0").alias("catalog"), parts.field("field_1").alias("id")
    )
    return split.select(*CROSS_CATALOG_SCHEMA, *({ORIENTATION} & {*rows.columns}))
