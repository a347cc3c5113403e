"""The items stage: a source becomes the tables `<name>/items` and `<name>/rejects`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from imgsim_assets.catalog.image_rows import OTHER_URLS, image_rows
from imgsim_assets.catalog.locations import EMBEDDED
from imgsim_assets.catalog.reader import read_source
from imgsim_assets.catalog.rejects import count_images, describe_rejects
from imgsim_assets.catalog.settings import SourceSettings
from imgsim_assets.catalog.source import Source, open_source
from imgsim_assets.catalog.validation import ValidatedRows, no_rows_message, validate_rows
from imgsim_assets.errors import CorruptFileError, SourceError
from imgsim_assets.progress import silent
from imgsim_assets.storage.commit import Commit, DataFile, PendingCommit, replace_shard
from imgsim_assets.storage.digest import rows_digest
from imgsim_assets.storage.gc import REFERS_TO_BLOBS
from imgsim_assets.storage.shards import Shard, shard_indices
from imgsim_assets.storage.store import Store
from imgsim_assets.storage.table import Table
from imgsim_assets.text import counted

_REJECTED_IMAGES = "rejected_images"
_SHARD = "__shard"
# Garbage collection keeps the images that the urls name by their sha256.
EMBEDDED_PROPERTIES = {REFERS_TO_BLOBS: EMBEDDED}


@dataclass(frozen=True)
class ItemsReport:
    """The outcome of one run of the items stage.

    Attributes:
        version: the version of `<name>/items` that is current after the run.
        rows: the number of items in it.
        images: the number of their images.
        max_images_per_item: the largest number of images of an item.
        rejects: the number of rejected items and images by reason.
        rejected_images: how many of them are images of items that have others.
        columns: the columns of the table.
        changed: whether the run committed a version.
        data_version: a digest of the rows of all shards.
        changed_shards: the names of the shards whose rows changed.
        id_column: the source's column of the ids.
        url_columns: the source's columns of the images; the first one has the ids too if it is
            the same.
        notices: what was detected or adjusted in the source.
    """

    version: int
    rows: int
    images: int
    max_images_per_item: int
    rejects: Mapping[str, int]
    columns: Sequence[str]
    changed: bool
    data_version: str
    changed_shards: Sequence[str]
    rejected_images: int = 0
    id_column: str = "id"
    url_columns: Sequence[str] = ("url",)
    notices: Sequence[str] = ()


def items_table(store: Store, name: str) -> Table:
    """`<name>/items`: id, url and the carried columns, one file per shard, sorted by id.

    Where items may have several images, url is the first one and other_urls has the others.
    """
    return store.table(f"{name}/items", key="id")


def rejects_table(store: Store, name: str) -> Table:
    """`<name>/rejects`: file, line, reason, detail and text of every rejected item and image."""
    return store.table(f"{name}/rejects")


def rejected_images(rejects: Commit) -> int:
    """How many rows of a version of the rejects are images of items that have others."""
    return int(rejects.properties.get(_REJECTED_IMAGES, 0))


class ItemsStage:
    """Reads a catalog's source, validates its rows and commits the shards that changed.

    Args:
        store: the store that holds the tables.
        name: the catalog's name.
        settings: the source.
        shards: the number of shards of `<name>/items`.
        project_root: the folder that relative paths start from.
        max_removed_fraction: the largest fraction of the current items that one run may remove,
            0 to 1.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        settings: SourceSettings,
        *,
        shards: int,
        project_root: Path,
        max_removed_fraction: float = 1.0,
    ) -> None:
        self._settings = settings
        self._shards = shards
        self._project_root = project_root
        self._max_removed_fraction = max_removed_fraction
        self._blobs = store.blobs
        self._items = items_table(store, name)
        self._rejects = rejects_table(store, name)

    def run(self) -> ItemsReport:
        """Update the tables to match the source; an unchanged source is not read again.

        A source with `allow_empty` may remove all items at once, but not more than
        `max_removed_fraction` of them when it has rows left.

        Raises:
            SourceError: when the source cannot be read, lacks a column, has no usable row, or
                removes too many items. The current version stays.
        """
        source = open_source(self._settings, self._project_root)
        current = self._items.latest()
        fingerprint = source.fingerprint(current.properties.get("hashes") if current else None)
        recipe = self._recipe(source)
        if current is not None and self._is_up_to_date(current, fingerprint.digest, recipe):
            return self._report(current, current, changed_shards=[])
        keep = self._blobs.put
        validated = validate_rows(read_source(source, keep), source, keep)
        self._blobs.flush()
        # Committed even if the source is refused below: the rejects show what is wrong with it.
        rejects_version = self._commit_rejects(validated.rejects)
        self._require_rows(validated, source, current)
        if current is not None and validated.rows.height:
            self._limit_removals(validated, source, current)
        changed_shards: list[str] = []

        def change(latest: Commit | None) -> PendingCommit:
            changed_shards.clear()
            return PendingCommit(
                self._shard_files(latest, validated.rows, changed_shards),
                inputs={"source": fingerprint.digest},
                properties={
                    "recipe": recipe,
                    "rejects": rejects_version,
                    "hashes": dict(fingerprint.hashes),
                    "id_column": validated.id_column,
                    "url_columns": list(validated.url_columns),
                    **_image_counts(validated.rows),
                    "notices": list(validated.notices),
                    "root": source.root,
                    **(EMBEDDED_PROPERTIES if _has_embedded(validated.rows) else {}),
                },
            )

        commit = self._items.commit(change)
        if commit is None:
            raise AssertionError("a run that reads its source commits the rows")
        return self._report(commit, current, changed_shards)

    def _recipe(self, source: Source) -> str:
        """A digest of everything that determines the rows, except the source's content."""
        recipe = {
            "settings": self._settings.model_dump(mode="json"),
            "root": source.root,
            "shards": self._shards,
        }
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    def _is_up_to_date(self, current: Commit, source_digest: str, recipe: str) -> bool:
        """Whether the committed tables came from this source and recipe, and are undamaged."""
        rejects = self._rejects.latest()
        return (
            current.inputs.get("source") == source_digest
            and current.properties.get("recipe") == recipe
            and self._items.verify_checksums(current)
            and rejects is not None
            # A source that was refused since then has committed its own rejects.
            and current.properties.get("rejects", rejects.version) == rejects.version
            and self._rejects.verify_checksums(rejects)
        )

    def _commit_rejects(self, rows: pl.DataFrame) -> int:
        """Commit the rejects if they differ from the latest; returns their version."""
        table = self._rejects

        def change(latest: Commit | None) -> PendingCommit | None:
            if (
                latest is not None
                and table.verify_checksums(latest)
                and table.read(latest).equals(rows)
            ):
                return None
            properties = {_REJECTED_IMAGES: count_images(rows)}
            return PendingCommit([table.write_rows(rows)], properties=properties)

        commit = table.commit(change)
        if commit is None:
            raise AssertionError("the first run commits the rejects")
        return commit.version

    def _require_rows(
        self, validated: ValidatedRows, source: Source, current: Commit | None
    ) -> None:
        if validated.rows.height or self._settings.allow_empty:
            return
        message = no_rows_message(validated, source)
        if current is not None and current.rows:
            message += f"; the last version is kept, with {counted(current.rows, 'item')}"
        raise SourceError(f"{message}. If it is meant to be empty, set 'allow_empty: true'")

    def _limit_removals(self, validated: ValidatedRows, source: Source, current: Commit) -> None:
        if self._max_removed_fraction >= 1:
            return
        current_ids = self._items.read(current, columns=["id"], on_corrupt=silent)
        count = validated.rows.height
        # Compare ids, not counts: as many rows under other ids would remove every item, too.
        removed = (
            current_ids.join(validated.rows, on="id", how="anti").height if current_ids.width else 0
        )
        removed = max(removed, current.rows - count)
        if removed <= current.rows * self._max_removed_fraction:
            return
        before, now = current.properties.get("id_column"), validated.id_column
        cause = ""
        if before != now:
            cause = f" Ids came from column {before!r} and now come from {now!r}."
        if validated.rejects.height:
            cause += f" Of its rows, {describe_rejects(validated.rejects)}."
        raise SourceError(
            f"{source.location} has {count} usable rows and had {current.rows}: "
            f"{removed / current.rows:.0%} of the items are gone, more than the "
            f"{self._max_removed_fraction:.0%} of 'max_removed_fraction'.{cause} The last version "
            f"is kept. If the items are gone for good, materialize {self._items.name} once with "
            f"the run config 'allow_removals: true': {_allow_removals(self._items.name)}"
        )

    def _shard_files(
        self, latest: Commit | None, rows: pl.DataFrame, changed_shards: list[str]
    ) -> list[DataFile]:
        """One file per shard: the committed file if its rows are equal, else a new one."""
        by_shard = rows.with_columns(
            shard_indices(rows["id"], self._shards).alias(_SHARD)
        ).partition_by(_SHARD, as_dict=True, include_key=False, maintain_order=True)
        files: list[DataFile] = []
        for index in range(self._shards):
            shard = Shard(index, self._shards)
            shard_rows = by_shard.get((index,), rows.clear())
            committed = latest.files_of_shard(shard) if latest else []
            if len(committed) == 1 and self._has_rows(committed[0], shard_rows):
                files.append(committed[0])
            else:
                changed_shards.append(shard.name)
                files.extend(replace_shard(None, shard, [self._items.write_rows(shard_rows)]))
        return files

    def _has_rows(self, file: DataFile, rows: pl.DataFrame) -> bool:
        if file.rows != rows.height:
            return False
        try:
            stored = self._items.read_file(file)
        except CorruptFileError:
            return False
        return stored.schema == rows.schema and stored.equals(rows)

    def _report(
        self, commit: Commit, previous: Commit | None, changed_shards: Sequence[str]
    ) -> ItemsReport:
        rejects, images = self._count_rejects()
        return ItemsReport(
            version=commit.version,
            rows=commit.rows,
            images=commit.properties["images"],
            max_images_per_item=commit.properties["max_images_per_item"],
            rejects=rejects,
            rejected_images=images,
            columns=list(self._items.read_file(commit.files[0]).columns),
            changed=previous is None or commit.version != previous.version,
            data_version=data_version(commit),
            changed_shards=list(changed_shards),
            id_column=commit.properties["id_column"],
            url_columns=tuple(commit.properties["url_columns"]),
            notices=tuple(commit.properties.get("notices", ())),
        )

    def _count_rejects(self) -> tuple[dict[str, int], int]:
        commit = self._rejects.latest()
        if commit is None:
            return {}, 0
        counts: Any = self._rejects.read(commit)["reason"].value_counts().sort("reason").iter_rows()
        return dict(counts), rejected_images(commit)


def _allow_removals(items: str) -> str:
    """The shell command that materializes an items table whose source may lose any number."""
    config = {"ops": {items.replace("/", "__"): {"config": {"allow_removals": True}}}}
    return f"dg launch --assets {items} --config-json '{json.dumps(config)}'"


def _has_embedded(rows: pl.DataFrame) -> bool:
    return bool(image_rows(rows)["url"].str.starts_with(EMBEDDED).any())


def _image_counts(rows: pl.DataFrame) -> dict[str, int]:
    if OTHER_URLS not in rows.columns:
        return {"images": rows.height, "max_images_per_item": int(rows.height > 0)}
    others = rows[OTHER_URLS].list.len()
    most: Any = others.max()
    return {
        "images": rows.height + int(others.sum()),
        "max_images_per_item": 1 + most if rows.height else 0,
    }


def data_version(commit: Commit) -> str:
    """A digest of a commit's row files: equal when the rows of every shard are equal."""
    return rows_digest(pl.DataFrame({"file": [file.sha256 for file in commit.files_with_role()]}))
