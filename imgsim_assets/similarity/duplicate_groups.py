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
from pathlib import Path

import numpy as np
import polars as pl

from imgsim_assets.encoders.recorded import FINGERPRINT, recorded_name, require_same_encoder
from imgsim_assets.encoders.settings import EncoderSettings
from imgsim_assets.encoders.vectors import REBUILDS
from imgsim_assets.index.stage import rebuild_count
from imgsim_assets.progress import Log, silent
from imgsim_assets.reviews.decisions import Decisions
from imgsim_assets.reviews.table import PAIR
from imgsim_assets.similarity import items
from imgsim_assets.similarity.approximate.recall import Recall
from imgsim_assets.similarity.approximate.run_warning import warn_of_exact_search
from imgsim_assets.similarity.approximate.search import recall_of, reused_if_found
from imgsim_assets.similarity.calibration import CatalogItems
from imgsim_assets.similarity.canonical import PROTECTED
from imgsim_assets.similarity.cosine import Indices
from imgsim_assets.similarity.distinct_images import distinct_images
from imgsim_assets.similarity.evidence.accepted_pairs import (
    BY_EVIDENCE,
    CANDIDATES,
    EvidenceCounts,
    EvidenceRule,
    needs_threshold,
)
from imgsim_assets.similarity.evidence.compare_pairs import PairEvidence
from imgsim_assets.similarity.evidence.known_pairs import EVIDENCE, EVIDENCE_RULE
from imgsim_assets.similarity.group_links import image_links
from imgsim_assets.similarity.group_rows import group_items
from imgsim_assets.similarity.group_tables import (
    BRIDGES,
    DECISIONS,
    SEPARATOR,
    cross_catalog_groups_table,
    group_decisions,
    groups_table,
    with_catalog,
)
from imgsim_assets.similarity.grouped_images import GroupedImages
from imgsim_assets.similarity.image_sets import ImageSets
from imgsim_assets.similarity.items import ORIENTATION, Items
from imgsim_assets.similarity.materialized import (
    ORIENTATIONS_PROPERTY,
    Computed,
    MaterializedResult,
)
from imgsim_assets.similarity.orientations import TURNED_REBUILDS, TurnedCatalogs
from imgsim_assets.similarity.ranked_images import ranked_images
from imgsim_assets.similarity.selection import (
    common_images,
    left_out_counts,
    select_images,
    shared_images,
)
from imgsim_assets.similarity.settings import (
    METHOD,
    MIN_RECALL,
    CrossCatalogGroupSettings,
    GroupSettings,
    PairSettings,
)
from imgsim_assets.similarity.threshold import resolve_threshold
from imgsim_assets.similarity.values import WITHIN, items_versions
from imgsim_assets.storage.commit import Commit
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.row_blocks import RowBlocks
from imgsim_assets.storage.store import Store

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
    `encoder` is that of the vectors, in words. `device` says where joins ran.
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
    encoder: str
    fingerprint: str
    device: str = "not needed"


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
        read = [CatalogItems(name, *indexed[name]) for name in self._catalogs]
        selection = select_images(
            self._store, settings, self._root, read, table=self.table, latest=latest
        )
        selected = dict(zip(self._catalogs, selection.items, strict=True))
        ranked = ranked_images(
            self._store,
            selected,
            settings.keep,
            settings.canonical,
            SEPARATOR if self._cross_catalog else None,
        )
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
        made_by = {**recipe, **selection.recipe}
        result = MaterializedResult.for_recipe(self.table, latest, made_by, _LINK_KEYS)
        result = reused_if_found(result)
        # In order of rank, which decides the groups as much as the items; only keys are kept.
        in_order = Items(ranked, np.empty((0, 0), dtype=np.float32))
        inputs |= {f"{name}/index": index.version for name, index in commits}
        computed: list[PairEvidence] = []
        expected: list[float | None] = []

        def compute() -> Computed:
            turned = self._in_all_orientations(indexes, selected)
            expected.append(warn_of_exact_search(result, turned or images, images, self._log))
            found = image_links(self._store, result, images, turned, threshold, rule)
            if found.evidence is not None:
                computed.append(found.evidence)
            rows, bridges = self._grouped(ranked, images, turned, found.links, threshold, decisions)
            files = [
                self.table.write_rows(rows),
                self.table.write_rows(bridges, role=BRIDGES),
                *found.files,
            ]
            if decisions.verdicts.height:
                files.append(self.table.write_rows(decisions.verdicts, role=DECISIONS))
            return Computed(files, found.incremental)

        update = result.update(in_order, images, inputs, compute)
        if update is None:
            return self.run()
        rows = update.rows
        identity = [name for name in _IDENTITY if name in rows.columns]
        return GroupReport(
            version=update.commit.version,
            groups=rows["group_id"].n_unique(),
            grouped=rows.height,
            items=sum(of_catalog.count for _, of_catalog in indexed.values()),
            images=len(ranked),
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
            encoder=recorded_name(indexes[self._catalogs[0]]),
            fingerprint=fingerprint,
        )

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
        ranked: RowBlocks,
        images: Items,
        turned: Items | None,
        links: Indices,
        threshold: float,
        decisions: Decisions,
    ) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The rows of the groups, and their bridges."""
        decided = pl.concat([decisions.verdicts[side] for side in PAIR])
        rows, images, turned, links = GroupedImages.of(ranked, images, turned, links, decided)
        items_in_order = rows.select("id", PROTECTED).unique("id", maintain_order=True)
        different = decisions.different
        alone = pl.concat([different["left_id"], different["right_id"]]).unique()
        sets = ImageSets.of(rows, images, self._settings.compare, alone, turned)
        linkage, verdicts = self._settings.linkage, decisions.verdicts
        groups, bridges = group_items(items_in_order, sets, links, linkage, threshold, verdicts)
        return with_catalog(groups) if self._cross_catalog else groups, bridges

    def _evidence(
        self, commit: Commit, computed: PairEvidence | None, rule: EvidenceRule | None
    ) -> EvidenceCounts | None:
        file = commit.file_with_role(EVIDENCE)
        return EvidenceCounts.of(self.table.read_file(file), computed, rule) if file else None
